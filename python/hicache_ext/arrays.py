"""Where the bytes of an array lie: torch, CuPy, NumPy, buffers, DLPack. Imports no framework."""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from hicache_ext import _C
from hicache_ext.errors import CudaError, LayoutError, LifetimeError

# DLPack's numbers: kinds of memory that the CPU and that a GPU works in, and kinds of numbers.
_DL_CPU, _DL_GPU = (1, 3), (2, 13)  # ordinary, pinned; of the GPU, managed
_DL_TYPES = {0: "int", 1: "uint", 2: "float", 4: "bfloat", 5: "complex", 6: "bool"}
_DL_NO_SYNC = -1


class ArrayView(NamedTuple):
    """Plain facts about one array. Whoever uses the address keeps the array and `owner` alive."""

    address: int  # of the first element; 0 for an empty array
    shape: tuple[int, ...]
    strides: tuple[int, ...]  # bytes
    itemsize: int
    device: str  # "cpu" or "cuda:N"
    is_writable: bool
    typestr: str  # "int32", "bfloat16", ... as the framework calls it, lower case
    owner: object = None  # what DLPack handed out, else None

    @property
    def num_bytes(self) -> int:
        """Of the elements, gaps between them not counted."""
        return math.prod(self.shape) * self.itemsize

    @property
    def is_contiguous(self) -> bool:
        """Whether the elements follow each other in C order without gaps."""
        return 0 in self.shape or all(
            extent == 1 or stride == dense
            for extent, stride, dense in zip(
                self.shape, self.strides, _dense(self.shape, self.itemsize), strict=True
            )
        )


def torch_tensor(array: object) -> Any | None:
    """The array if it is a torch tensor; torch is not imported for the question."""
    torch = sys.modules.get("torch")
    return array if torch is not None and isinstance(array, torch.Tensor) else None


def cupy_array(array: object) -> Any | None:
    """The array if it is a CuPy array; CuPy is not imported for the question."""
    cupy = sys.modules.get("cupy")
    return array if cupy is not None and isinstance(array, cupy.ndarray) else None


def view(array: object) -> ArrayView:
    """Facts about `array`; LayoutError if it is no array that this package can read."""
    tensor = torch_tensor(array)
    if tensor is not None:
        return _view_torch(tensor)
    if cupy_array(array) is not None:
        return _view_cupy(array)
    if isinstance(array, np.ndarray):
        return _view_numpy(array)
    if hasattr(array, "__cuda_array_interface__"):
        return _view_interface(array, "__cuda_array_interface__")
    if hasattr(array, "__array_interface__"):
        return _view_interface(array, "__array_interface__")
    if hasattr(array, "__dlpack__"):
        return _view_dlpack(array)
    try:
        memory = memoryview(array)  # type: ignore[arg-type]
    except TypeError:
        raise LayoutError(f"not an array: {type(array).__name__}") from None
    return _view_numpy(np.asarray(memory))


def type_name(dtype: np.dtype[Any]) -> str:
    """As ArrayView.typestr: "int32"; ">i4" for bytes in the other order."""
    return str(dtype.name if dtype.isnative else dtype.str)


def _dense(shape: Sequence[int], itemsize: int) -> tuple[int, ...]:
    """The strides of a C-contiguous array, in the unit of `itemsize`."""
    strides: list[int] = []
    for extent in reversed(shape):
        strides.append(itemsize)
        itemsize *= extent
    return tuple(reversed(strides))


def _view_torch(tensor: Any) -> ArrayView:
    kind = tensor.device.type
    if kind not in ("cpu", "cuda"):
        raise LayoutError(f"a tensor on device {tensor.device} cannot be copied")
    if str(tensor.layout) != "torch.strided":
        raise LayoutError(f"a tensor of layout {tensor.layout} has no strides")
    return ArrayView(
        address=tensor.data_ptr(),
        shape=tuple(tensor.shape),
        strides=tuple(step * tensor.element_size() for step in tensor.stride()),
        itemsize=tensor.element_size(),
        device="cpu" if kind == "cpu" else f"cuda:{tensor.device.index or 0}",
        is_writable=True,
        typestr=str(tensor.dtype).removeprefix("torch."),
    )


def _view_numpy(array: npt.NDArray[Any]) -> ArrayView:
    _require_bytes(array.dtype, "an array")
    if isinstance(array, np.ma.MaskedArray):
        raise LayoutError("masked arrays are not copied")
    return ArrayView(
        address=_C.array_address(array) if array.size else 0,
        shape=array.shape,
        strides=array.strides,
        itemsize=array.itemsize,
        device="cpu",
        is_writable=array.flags.writeable,
        typestr=type_name(array.dtype),
    )


def _require_bytes(dtype: np.dtype[Any], where: str) -> None:
    if dtype.hasobject:  # a copy of it would not count the references
        raise LayoutError(f"{where}: dtype {dtype} holds Python objects, not bytes")


def _view_cupy(array: Any) -> ArrayView:
    # Not by __cuda_array_interface__, which asks CUDA for the current stream, driver or no driver.
    return ArrayView(
        address=array.data.ptr if array.size else 0,
        shape=array.shape,
        strides=array.strides,
        itemsize=array.itemsize,
        device=f"cuda:{array.device.id}",
        is_writable=True,
        typestr=array.dtype.name,
    )


def _view_interface(array: object, protocol: str) -> ArrayView:
    """Both protocols are a dict of the same entries; what is wrong in it is told by its name."""
    where = f"{protocol} of {type(array).__name__}"
    interface = getattr(array, protocol)
    try:
        address, is_read_only = interface["data"]
        address = 0 if address is None else int(address)
        dtype = np.dtype(interface["typestr"])
        shape = tuple(int(extent) for extent in interface["shape"])
        given = interface.get("strides")
        strides = _dense(shape, dtype.itemsize) if given is None else tuple(int(s) for s in given)
    except (KeyError, TypeError, ValueError) as error:
        raise LayoutError(f"{where}: {type(error).__name__} {error} in {interface!r}") from None
    if len(strides) != len(shape) or any(extent < 0 for extent in shape):
        raise LayoutError(f"{where}: shape={shape} strides={strides}")
    if interface.get("mask") is not None:
        raise LayoutError(f"{where}: mask={interface['mask']!r}; masked arrays are not copied")
    if address == 0 and 0 not in shape:
        raise LayoutError(f"{where}: address 0 of shape={shape}")
    _require_bytes(dtype, where)
    on_gpu = protocol == "__cuda_array_interface__"
    return ArrayView(
        address=address,
        shape=shape,
        strides=strides,
        itemsize=dtype.itemsize,
        device=_cuda_device(array, address) if on_gpu else "cpu",
        is_writable=not is_read_only,
        typestr=type_name(dtype),
    )


def _cuda_device(array: object, address: int) -> str:
    """The interface does not tell the device: some objects do, as CuPy's, else CUDA is asked."""
    stated = getattr(getattr(array, "device", None), "id", None)
    if not isinstance(stated, int):
        try:
            stated = _C.device_of_memory(address) if address else None
        except CudaError:  # no CUDA here: the copy will say so
            stated = None
    return f"cuda:{stated or 0}"


def _view_dlpack(array: Any) -> ArrayView:
    where = f"__dlpack__ of {type(array).__name__}"
    kind, _ = array.__dlpack_device__()
    if kind not in (*_DL_CPU, *_DL_GPU):
        raise LayoutError(f"{where}: memory of kind {kind} (DLDeviceType) cannot be copied")
    tensor = _C.DlpackTensor(dlpack_capsule(array, None if kind in _DL_CPU else _DL_NO_SYNC))
    kind, number = tensor.device
    code, bits, lanes = tensor.dtype
    if bits * lanes % 8:
        raise LayoutError(f"{where}: elements of {bits} bits x {lanes} are no whole bytes")
    itemsize = bits * lanes // 8
    steps = _dense(tensor.shape, 1) if tensor.strides is None else tensor.strides
    return ArrayView(
        address=tensor.address,
        shape=tensor.shape,
        strides=tuple(step * itemsize for step in steps),
        itemsize=itemsize,
        device="cpu" if kind in _DL_CPU else f"cuda:{number}",
        is_writable=not tensor.is_read_only,
        typestr=f"{_DL_TYPES.get(code, 'opaque')}{bits}" + (f"x{lanes}" if lanes > 1 else ""),
        owner=tensor,
    )


def dlpack_capsule(array: Any, stream: int | None) -> object:
    """What array.__dlpack__ hands out, never a copy; afterwards `stream` sees the array's bytes.

    stream: None on the CPU; else a handle as DLPack has it (1 = legacy default), -1 = no order.
    """
    asked = {} if stream is None else {"stream": stream}
    try:
        try:
            return array.__dlpack__(**asked, max_version=(1, 0), copy=False)
        except TypeError:  # a producer from before DLPack 1
            return array.__dlpack__(**asked)
    except BufferError as error:
        if isinstance(error, LifetimeError):  # a HostBuffer of ours that is closed
            raise
        raise LayoutError(f"__dlpack__ of {type(array).__name__}: {error}") from None
