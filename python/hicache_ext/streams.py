"""CUDA streams of any framework as raw handles."""

from __future__ import annotations

import sys
from typing import Any

from hicache_ext import arrays
from hicache_ext.errors import LayoutError


def stream_handle(stream: Any) -> int:
    """The cudaStream_t of an int, a torch or CuPy stream, or an object with __cuda_stream__."""
    if isinstance(stream, int) and not isinstance(stream, bool):
        return stream
    if hasattr(stream, "__cuda_stream__"):
        return int(stream.__cuda_stream__()[1])
    for attribute in ("cuda_stream", "ptr"):
        if hasattr(stream, attribute):
            return int(getattr(stream, attribute))
    raise LayoutError(f"not a CUDA stream: {type(stream).__name__}")


def current_stream(array: object, device_idx: int) -> int:
    """The stream on which the framework of `array` works now; 0 where it has none."""
    if arrays.torch_tensor(array) is not None:
        return int(sys.modules["torch"].cuda.current_stream(device_idx).cuda_stream)
    cupy = sys.modules.get("cupy")
    if cupy is not None and isinstance(array, cupy.ndarray):
        return int(cupy.cuda.get_current_stream().ptr)
    # Version 3 of the interface: the stream that the producer's work is on.
    return int(getattr(array, "__cuda_array_interface__", {}).get("stream") or 0)
