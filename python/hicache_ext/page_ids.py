"""Page ids as an executor takes them: int32 or int64 [n], in host or GPU memory."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from hicache_ext.arrays import ArrayView, cupy_array, torch_tensor, type_name, view
from hicache_ext.errors import LayoutError

PageIds = Sequence[int] | npt.NDArray[np.int32] | npt.NDArray[np.int64] | Any

_TYPES = ("int32", "int64")
_DTYPES = (np.dtype(np.int32), np.dtype(np.int64))  # by value: the name of a dtype takes 2 us


def is_on_gpu(ids: PageIds) -> bool:
    """Whether page ids lie in GPU memory already."""
    if isinstance(ids, (np.ndarray, list, tuple, range)):
        return False
    tensor = torch_tensor(ids)
    if tensor is not None:
        return bool(tensor.device.type == "cuda")
    if cupy_array(ids) is not None or hasattr(ids, "__cuda_array_interface__"):
        return True
    return hasattr(ids, "__dlpack__") and view(ids).device != "cpu"


def gpu_page_ids(side: str, ids: Any) -> ArrayView:
    """Page ids int32 or int64 [n] in GPU memory; their values are not looked at."""
    seen = view(ids)
    if seen.typestr not in _TYPES or not seen.is_contiguous or len(seen.shape) != 1:
        raise LayoutError(
            f"{side} page ids must be int32 or int64 [n] without gaps, not {seen.typestr} "
            f"{list(seen.shape)}"
        )
    return seen


def host_page_ids(side: str, ids: PageIds) -> npt.NDArray[Any]:
    """Page ids in host memory as int32 or int64 [n]; else a LayoutError that names `side`."""
    array = ids if isinstance(ids, np.ndarray) else _listed(side, ids)
    if array.dtype not in _DTYPES or array.ndim != 1:
        raise LayoutError(
            f"{side} page ids must be int32 or int64 [n], not {type_name(array.dtype)} "
            f"{list(array.shape)}"
        )
    return np.ascontiguousarray(array)


def _listed(side: str, ids: Any) -> npt.NDArray[Any]:
    if is_on_gpu(ids):
        raise LayoutError(f"{side} page ids in GPU memory for a copy on the CPU")
    tensor = torch_tensor(ids)
    if tensor is not None:
        torch = sys.modules["torch"]
        if tensor.device.type != "cpu" or tensor.dtype not in (torch.int32, torch.int64):
            raise LayoutError(
                f"{side} page ids must be int32 or int64 [n], not {tensor.dtype} on {tensor.device}"
            )
        return np.asarray(tensor.detach().numpy())
    if hasattr(ids, "__array_interface__"):
        return np.asarray(ids)
    if hasattr(ids, "__dlpack__"):
        view(ids)  # its errors are ours
        return np.from_dlpack(ids)
    if not isinstance(ids, Iterable):
        raise LayoutError(f"{side} page ids are not a sequence: {type(ids).__name__}")
    listed = list(ids)
    wrong = [t for t in set(map(type, listed)) if t is bool or not issubclass(t, (int, np.integer))]
    if wrong:
        kinds = sorted(kind.__name__ for kind in wrong)
        raise LayoutError(f"{side} page ids must be integers, not {', '.join(kinds)}")
    try:
        return np.array(listed, dtype=np.int64)
    except OverflowError:
        raise LayoutError(f"{side} page ids do not fit into int64") from None
