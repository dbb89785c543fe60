"""What of the native module only tests use; a part of _C.pyi, and no module of its own."""

import numpy as np
import numpy.typing as npt

from hicache_ext._C import CopySet

# --- bind_copy_emulator.cpp: the kernels' loop bodies on the CPU
class Emulation:
    num_workers: int
    num_misaligned: int
    num_outside: int
    max_in_flight: int
    num_passes: int
    first_bad: int
    num_bytes: int

def emulate_copy(
    set: CopySet,
    src: npt.NDArray[np.uint8],
    dst: npt.NDArray[np.uint8],
    *,
    num_blocks: int,
    shape: str,
    num_writes: npt.NDArray[np.uint8],
    max_units: int = ...,
    max_rings: int = ...,
) -> Emulation: ...

# --- bind_cuda_emulator.cpp
class CudaEmulator:
    num_pending: int
    def __init__(self, *, seed: int = 0, **options: int) -> None: ...
    def install(self) -> None: ...
    def uninstall(self) -> None: ...
    def register_host(self, address: int, num_bytes: int) -> None: ...
    def allocate(self, num_bytes: int, device: int = 0) -> int: ...
    def create_stream(self, device: int = 0) -> int: ...
    def begin_capture(self, stream: int) -> None: ...
    def end_capture(self, stream: int) -> None: ...
    def replay(self, stream: int) -> None: ...
    def fail_call_after(self, num_calls: int) -> None: ...
    def run_all(self) -> None: ...
    def take_calls(self) -> list[str]: ...
