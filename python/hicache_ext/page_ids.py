"""Page ids as an executor takes them: int32 or int64 [n], in host or GPU memory."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NoReturn

import numpy as np
import numpy.typing as npt

from hicache_ext.arrays import ArrayView, cupy_array, torch_tensor, type_name, view
from hicache_ext.checks import MAX_INT, require_whole
from hicache_ext.errors import LayoutError

PageIds = Sequence[int] | npt.NDArray[np.int32] | npt.NDArray[np.int64] | Any

_TYPES = ("int32", "int64")
_TOP = 2**63  # int64 ends below it
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
    if not isinstance(ids, np.ndarray) and is_on_gpu(ids):
        raise LayoutError(f"{side} page ids in GPU memory for a copy on the CPU")
    return _on_host(f"{side} page ids", ids)


def page_ids_of_tokens(token_ids: PageIds, page_size: int) -> npt.NDArray[Any]:
    """The page ids [n] of tokens [n * page_size], for engines that keep token indices.

    token_ids: of any kind that page ids may be, in host memory; token t lies in page
    t // page_size. Each page_size of them are one page, whole and in order, or a hole, -1, where
    all are negative. The result has their dtype.

    LayoutError with the position and the value of the first token that is out of place. Ids in GPU
    memory are refused: to check them is to wait for the GPU. Whoever trusts them has their page ids
    there by token_ids[::page_size] // page_size.
    """
    page_size = require_whole("page_size", page_size, most=MAX_INT)
    if not isinstance(token_ids, np.ndarray) and is_on_gpu(token_ids):
        raise LayoutError(
            "token_ids in GPU memory, where they are not checked: pass page ids, "
            f"token_ids[::{page_size}] // {page_size}"
        )
    tokens = _on_host("token_ids", token_ids)
    if len(tokens) % page_size:
        raise LayoutError(f"token_ids: {len(tokens)} are no whole pages of page_size={page_size}")
    if len(tokens) == 0:
        return tokens
    pages = tokens.reshape(-1, page_size)
    first = pages[:, :1]
    is_hole = first < 0
    page_ids = np.where(is_hole, -1, first // page_size)
    # A sum that wraps is negative, and no token.
    wanted = page_ids * page_size + np.arange(page_size, dtype=tokens.dtype)
    wrong = np.where(is_hole, pages >= 0, (pages != wanted) | (pages < 0))
    for position in np.flatnonzero(wrong)[:1]:
        _raise_token(tokens, int(position), page_size)
    return page_ids[:, 0]


def _raise_token(tokens: npt.NDArray[Any], position: int, page_size: int) -> NoReturn:
    first = int(tokens[position - position % page_size])
    if first < 0:
        wanted = f"negative, as its page begins with {first}"
    elif position % page_size == 0:
        wanted = f"a multiple of page_size={page_size}, where a page begins"
    else:
        wanted = f"{first + position % page_size}, as its page begins with {first}"
    raise LayoutError(f"token_ids: position={position} value={tokens[position]} must be {wanted}")


def _on_host(what: str, ids: PageIds) -> npt.NDArray[Any]:
    array = ids if type(ids) is np.ndarray else _listed(what, ids)
    if array.dtype not in _DTYPES or array.ndim != 1:
        raise LayoutError(
            f"{what} must be int32 or int64 [n], not {type_name(array.dtype)} {list(array.shape)}"
        )
    return np.ascontiguousarray(array)


def _listed(what: str, ids: Any) -> npt.NDArray[Any]:
    tensor = torch_tensor(ids)
    if tensor is not None:
        torch = sys.modules["torch"]
        if tensor.device.type != "cpu" or tensor.dtype not in (torch.int32, torch.int64):
            raise LayoutError(
                f"{what} must be int32 or int64 [n], not {tensor.dtype} on {tensor.device}"
            )
        return np.asarray(tensor.detach().numpy())
    if isinstance(ids, np.ma.MaskedArray):
        raise LayoutError(f"{what} in a masked array: holes are negative ids")
    if hasattr(ids, "__array_interface__"):
        return np.asarray(ids)
    if hasattr(ids, "__dlpack__"):
        view(ids)  # its errors are ours
        return np.from_dlpack(ids)
    if not isinstance(ids, Iterable):
        raise LayoutError(f"{what} are not a sequence: {type(ids).__name__}")
    listed = list(ids)
    kinds = set(map(type, listed))
    if any(kind is bool or not issubclass(kind, (int, np.integer)) for kind in kinds):
        _raise_first(what, listed, "is no integer", lambda v: not _is_integer(v))
    try:
        return np.array(listed, dtype=np.int64)
    except OverflowError:
        _raise_first(what, listed, "does not fit into int64", lambda v: not -_TOP <= v < _TOP)


def _is_integer(value: Any) -> bool:
    return isinstance(value, (int, np.integer)) and not isinstance(value, bool)


def _raise_first(
    what: str, values: list[Any], wrong: str, is_wrong: Callable[[Any], bool]
) -> NoReturn:
    position, value = next((i, value) for i, value in enumerate(values) if is_wrong(value))
    shown = repr(value.item() if isinstance(value, np.generic) else value)
    raise LayoutError(f"{what}: position={position} value={shown} {wrong}")
