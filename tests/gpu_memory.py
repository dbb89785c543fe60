"""GPU and pinned memory for the tests through nothing but the CUDA runtime and the array interface,
as CuPy would hand it over; on a GPU or in the simulator of one."""

from __future__ import annotations

import contextlib
import ctypes
import weakref
from functools import cache
from typing import Any

import numpy as np

ANY_DIRECTION = 4  # cudaMemcpyDefault


@cache
def cudart() -> ctypes.CDLL:
    for name in ("libcudart.so.13", "libcudart.so.12"):
        with contextlib.suppress(OSError):
            return ctypes.CDLL(name)
    raise OSError("neither libcudart.so.13 nor libcudart.so.12 is there")


def why_no_gpu() -> str:
    """Why there is no GPU to be had here, or nothing."""
    try:
        count = ctypes.c_int()
        code = cudart().cudaGetDeviceCount(ctypes.byref(count))
    except OSError as error:
        return f"no CUDA runtime: {error}"
    return "" if code == 0 and count.value > 0 else f"no GPU (cudaGetDeviceCount: {code})"


def call(name: str, *args: Any) -> None:
    code = getattr(cudart(), name)(*args)
    assert code == 0, f"{name}: {code}"


def copy_bytes(to: int, source: int, num_bytes: int) -> None:
    size = ctypes.c_size_t(num_bytes)
    call("cudaMemcpy", ctypes.c_void_p(to), ctypes.c_void_p(source), size, ANY_DIRECTION)


class GpuView:
    """Part of an allocation; only the interface tells what it is."""

    def __init__(self, address: int, like: np.ndarray) -> None:
        self.address, self.shape, self.dtype = address, like.shape, like.dtype
        self.nbytes, self.strides = like.nbytes, like.strides

    def __len__(self) -> int:
        return self.shape[0]

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        return {
            "shape": self.shape,
            "strides": self.strides,
            "typestr": self.dtype.str,
            "data": (self.address, False),
            "version": 3,
            "stream": None,
        }


class GpuArray(GpuView):
    """GPU memory with the content of an array."""

    def __init__(self, content: np.ndarray) -> None:
        pointer = ctypes.c_void_p()
        size = ctypes.c_size_t(max(1, content.nbytes))
        call("cudaMalloc", ctypes.byref(pointer), size)
        super().__init__(pointer.value, content)
        copy_bytes(self.address, content.ctypes.data, self.nbytes)

    def read(self) -> np.ndarray:
        out = np.empty(self.shape, self.dtype)
        copy_bytes(out.ctypes.data, self.address, self.nbytes)
        return out

    def view(self, of: np.ndarray, whole: np.ndarray) -> GpuView:
        """What `of` is to `whole`, of this array of the same bytes."""
        return GpuView(self.address + of.ctypes.data - whole.ctypes.data, of)

    def __del__(self) -> None:
        cudart().cudaFree(ctypes.c_void_p(self.address))


def register(array: np.ndarray) -> np.ndarray:
    """Pins the array in place for as long as it lives."""
    address, size = ctypes.c_void_p(array.ctypes.data), ctypes.c_size_t(array.nbytes)
    call("cudaHostRegister", address, size, 0)
    weakref.finalize(array, call, "cudaHostUnregister", address)
    return array
