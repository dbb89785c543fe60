"""Where the bytes of an array lie: torch, CuPy, NumPy, buffers, DLPack. Imports no framework."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from hicache_ext.errors import LayoutError

_ID_TYPES = ("int32", "int64")


@dataclass(frozen=True)
class ArrayView:
    """Plain facts about one array. It does not keep the array alive."""

    address: int  # of the first byte; 0 for an empty array
    num_bytes: int
    itemsize: int
    device: str  # "cpu" or "cuda:N"
    is_contiguous: bool
    is_writable: bool
    typestr: str  # "int32", "bfloat16", ... as the framework calls it, lower case
    shape: tuple[int, ...]
    strides: tuple[int, ...]  # bytes


def torch_tensor(array: object) -> Any | None:
    """The array if it is a torch tensor; torch is not imported for the question."""
    torch = sys.modules.get("torch")
    return array if torch is not None and isinstance(array, torch.Tensor) else None


def view(array: object) -> ArrayView:
    """Facts about `array`; LayoutError if it is no array that this package can read."""
    tensor = torch_tensor(array)
    if tensor is not None:
        return _view_torch(tensor)
    if isinstance(array, np.ndarray):
        return _view_numpy(array)
    if hasattr(array, "__cuda_array_interface__"):
        return _view_interface(array.__cuda_array_interface__, _cuda_device(array))
    if hasattr(array, "__array_interface__"):
        return _view_interface(array.__array_interface__, "cpu")
    if hasattr(array, "__dlpack__"):
        return _view_dlpack(array)
    try:
        memory = memoryview(array)  # type: ignore[arg-type]
    except TypeError:
        raise LayoutError(f"not an array: {type(array).__name__}") from None
    return _view_numpy(np.asarray(memory))


def _view_torch(tensor: Any) -> ArrayView:
    kind = tensor.device.type
    if kind not in ("cpu", "cuda"):
        raise LayoutError(f"a tensor on device {tensor.device} cannot be copied")
    return ArrayView(
        address=tensor.data_ptr(),
        num_bytes=tensor.numel() * tensor.element_size(),
        itemsize=tensor.element_size(),
        device="cpu" if kind == "cpu" else f"cuda:{tensor.device.index or 0}",
        is_contiguous=tensor.is_contiguous(),
        is_writable=True,
        typestr=str(tensor.dtype).removeprefix("torch."),
        shape=tuple(tensor.shape),
        strides=tuple(step * tensor.element_size() for step in tensor.stride()),
    )


def _view_numpy(array: npt.NDArray[Any]) -> ArrayView:
    return ArrayView(
        address=array.ctypes.data if array.size else 0,
        num_bytes=array.nbytes,
        itemsize=array.itemsize,
        device="cpu",
        is_contiguous=array.flags.c_contiguous,
        is_writable=array.flags.writeable,
        typestr=array.dtype.name,
        shape=array.shape,
        strides=array.strides,
    )


def _view_interface(interface: dict[str, Any], device: str) -> ArrayView:
    dtype = np.dtype(interface["typestr"])
    shape = tuple(interface["shape"])
    num_items = int(np.prod(shape, dtype=np.int64))
    dense: list[int] = []
    step = dtype.itemsize
    for extent in reversed(shape):
        dense.insert(0, step)
        step *= extent
    strides = tuple(interface.get("strides") or dense)
    is_dense = all(e <= 1 or s == d for e, s, d in zip(shape, strides, dense, strict=True))
    address, read_only = interface["data"]
    return ArrayView(
        address=address or 0,
        num_bytes=num_items * dtype.itemsize,
        itemsize=dtype.itemsize,
        device=device,
        is_contiguous=is_dense or num_items == 0,
        is_writable=not read_only,
        typestr=dtype.name,
        shape=shape,
        strides=strides,
    )


def _cuda_device(array: object) -> str:
    """CuPy says its device; others of this interface mean the current one."""
    device = getattr(array, "device", None)
    return f"cuda:{getattr(device, 'id', 0)}"


def _view_dlpack(array: Any) -> ArrayView:
    kind, _ = array.__dlpack_device__()
    if kind == 1:  # kDLCPU
        return _view_numpy(np.from_dlpack(array))
    torch = sys.modules.get("torch")
    if torch is None:
        raise LayoutError(f"a DLPack array on device kind {kind} needs torch to be imported")
    return _view_torch(torch.from_dlpack(array))


PageIds = Sequence[int] | npt.NDArray[np.int32] | npt.NDArray[np.int64] | Any


def is_on_gpu(ids: PageIds) -> bool:
    """Whether page ids lie in GPU memory already."""
    tensor = torch_tensor(ids)
    if tensor is not None:
        return bool(tensor.device.type == "cuda")
    return hasattr(ids, "__cuda_array_interface__")


def gpu_page_ids(side: str, ids: Any) -> ArrayView:
    """Page ids int32 or int64 [n] in GPU memory; their values are not looked at."""
    seen = view(ids)
    if seen.typestr not in _ID_TYPES or not seen.is_contiguous or len(seen.shape) != 1:
        raise LayoutError(
            f"{side} page ids must be int32 or int64 [n] without gaps, not {seen.typestr} "
            f"{list(seen.shape)}"
        )
    return seen


def host_page_ids(side: str, ids: PageIds) -> npt.NDArray[Any]:
    """Page ids in host memory as int32 or int64 [n]; else a LayoutError that names `side`."""
    if is_on_gpu(ids):
        raise LayoutError(f"{side} page ids in GPU memory for a copy on the CPU")
    tensor = torch_tensor(ids)
    if tensor is not None:
        if tensor.device.type != "cpu" or str(tensor.dtype).removeprefix("torch.") not in _ID_TYPES:
            raise LayoutError(
                f"{side} page ids must be int32 or int64 [n], not {tensor.dtype} on {tensor.device}"
            )
        ids = tensor.detach().numpy()
    if not isinstance(ids, np.ndarray):
        if not isinstance(ids, Iterable):
            raise LayoutError(f"{side} page ids are not a sequence: {type(ids).__name__}")
        listed = list(ids)
        if not all(isinstance(i, (int, np.integer)) and not isinstance(i, bool) for i in listed):
            kinds = sorted({type(i).__name__ for i in listed})
            raise LayoutError(f"{side} page ids must be integers, not {', '.join(kinds)}")
        try:
            ids = np.array(listed, dtype=np.int64)
        except OverflowError:
            raise LayoutError(f"{side} page ids do not fit into int64") from None
    if ids.dtype.name not in _ID_TYPES or ids.ndim != 1:
        raise LayoutError(
            f"{side} page ids must be int32 or int64 [n], not {ids.dtype.name} {list(ids.shape)}"
        )
    return np.ascontiguousarray(ids)
