"""A CUDA runtime on the CPU for tests: memory on its device, and the runtime itself in place."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from gpu_memory import GpuArray, GpuView

from hicache_ext import _C


class EmulatedArray(GpuArray):
    """Emulated GPU memory with the content of an array; it is freed with the emulator."""

    def __init__(self, cuda: _C.CudaEmulator, content: np.ndarray, device: int = 0) -> None:
        address = cuda.allocate(max(1, content.nbytes), device)
        GpuView.__init__(self, address, content)
        ctypes.memmove(address, content.ctypes.data, content.nbytes)
        self.device = type("Device", (), {"id": device})  # as CuPy tells it

    def read(self) -> np.ndarray:
        """What the memory holds by now: work that nobody has waited for may not have run."""
        out = np.empty(self.shape, self.dtype)
        ctypes.memmove(out.ctypes.data, self.address, self.nbytes)
        return out

    def fill(self, value: int) -> None:
        ctypes.memset(self.address, value, self.nbytes)

    def __del__(self) -> None:
        pass


def pinned(cuda: _C.CudaEmulator, array: np.ndarray) -> np.ndarray:
    """The same array, registered as a whole."""
    cuda.register_host(array.ctypes.data, array.nbytes)
    return array


@contextmanager
def emulated_cuda(**options: Any) -> Iterator[_C.CudaEmulator]:
    """Copies on a stream run on this emulator until the end; cuda_emulator.h tells of it."""
    cuda = _C.CudaEmulator(**options)
    cuda.install()
    try:
        yield cuda
    finally:
        cuda.run_all()
        cuda.uninstall()
