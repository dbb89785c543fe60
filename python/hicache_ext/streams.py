"""CUDA streams of any framework as raw handles, and the order between them."""

from __future__ import annotations

import sys
from typing import Any

from hicache_ext import _C, arrays
from hicache_ext.errors import LayoutError

LEGACY_DEFAULT = 1  # cudaStreamLegacy, for which copies say 0; 2 is cudaStreamPerThread


def stream_handle(stream: Any, device_idx: int | None = None) -> int:
    """The cudaStream_t of an int, a torch or CuPy stream, or an object with __cuda_stream__.

    device_idx: of the copy; LayoutError if the stream says that it is of another device. (Of a raw
    handle, and of one that does not say it, CUDA is asked when the copy starts.)
    """
    handle = _handle(stream)
    stated = _device_of(stream)
    if device_idx is not None and stated is not None and stated != device_idx:
        raise LayoutError(
            f"stream={stream!r} is of cuda:{stated}, the copy is on cuda:{device_idx}"
        )
    return handle


def _handle(stream: Any) -> int:
    if isinstance(stream, bool) or stream is None:
        raise LayoutError(f"stream={stream!r} is not a CUDA stream")
    if isinstance(stream, int):
        handle = stream
    elif hasattr(stream, "__cuda_stream__"):
        handle = _protocol_handle(stream)
    elif hasattr(stream, "cuda_stream"):  # torch
        handle = int(stream.cuda_stream)
    elif hasattr(stream, "ptr"):  # CuPy
        handle = int(stream.ptr)
    else:
        raise LayoutError(f"stream={stream!r} is not a CUDA stream")
    if not 0 <= handle < 1 << 64:
        raise LayoutError(f"stream={stream!r}: {handle} is no cudaStream_t")
    return handle


def _protocol_handle(stream: Any) -> int:
    told = stream.__cuda_stream__
    try:
        version, handle = told() if callable(told) else told  # a property in early producers
    except (TypeError, ValueError) as error:
        raise LayoutError(f"stream={stream!r}: __cuda_stream__: {error}") from None
    if version != 0:
        raise LayoutError(f"stream={stream!r}: __cuda_stream__ of version {version}, not 0")
    return int(handle)


def _device_of(stream: Any) -> int | None:
    """torch and CuPy say it; CuPy's default streams, -1, are of whatever device is current."""
    stated = getattr(stream, "device_index", getattr(stream, "device_id", None))
    return stated if isinstance(stated, int) and stated >= 0 else None


def current_stream(array: object, device_idx: int) -> int:
    """The stream on which the framework of `array` works now; 0 where it has none."""
    if arrays.torch_tensor(array) is not None:
        return int(sys.modules["torch"].cuda.current_stream(device_idx).cuda_stream)
    if arrays.cupy_array(array) is not None:
        cupy = sys.modules["cupy"]
        with cupy.cuda.Device(device_idx):  # each device has a current stream
            return int(cupy.cuda.get_current_stream().ptr)
    return producer_stream(array) or 0


def producer_stream(array: object) -> int | None:
    """The stream on which the array is still in use, as __cuda_array_interface__ says it; None
    where there is nothing to wait for. LayoutError for 0, which the protocol forbids."""
    interface = getattr(array, "__cuda_array_interface__", {})
    stream = interface.get("stream")
    if stream is None:
        return None
    if isinstance(stream, bool) or not isinstance(stream, int) or not 0 < stream < 1 << 64:
        raise LayoutError(
            f"__cuda_array_interface__ of {type(array).__name__}: stream={stream!r} is no stream; "
            "1 is the legacy default one, 2 that of the thread"
        )
    return 0 if stream == LEGACY_DEFAULT else stream


def order_after_producer(array: object, device_idx: int, handle: int) -> None:
    """Lets the stream of a copy wait for what the array's producer still does with it.

    Both protocols ask for it: __cuda_array_interface__ names the producer's stream, __dlpack__ is
    told the copy's. Of a torch tensor the caller's current stream is the order, as torch has it.
    """
    if arrays.torch_tensor(array) is not None:
        return
    if hasattr(array, "__cuda_array_interface__"):
        before = producer_stream(array)
        if before is not None and before != handle:
            _C.order_streams(device_idx, before=before, after=handle)
    elif hasattr(array, "__dlpack__"):
        _C.DlpackTensor(arrays.dlpack_capsule(array, handle or LEGACY_DEFAULT))
