"""CUDA's registration of host memory, recorded, checked, and failing where it is told to."""

from __future__ import annotations

import ctypes

from hicache_ext import _C


class FakeCuda:
    """cudaHostRegister, cudaHostUnregister and cudaGetLastError that record, check and can fail."""

    def __init__(self, fail_pins: dict[int, int] | None = None, fail_unpin: bool = False) -> None:
        self.calls: list[tuple[str, int, int]] = []
        self.registered: dict[int, int] = {}
        self.last_error = 0
        self.num_pins = 0
        self.fail_pins = fail_pins or {}  # number of the call -> error code
        self.fail_unpin = fail_unpin
        pin_type = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_size_t)
        unpin_type = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p)
        clear_type = ctypes.CFUNCTYPE(ctypes.c_int)
        self._callbacks = (pin_type(self.pin), unpin_type(self.unpin), clear_type(self.clear))
        self.api = _C.PinApi(*(ctypes.cast(f, ctypes.c_void_p).value for f in self._callbacks))

    def pin(self, address: int, num_bytes: int) -> int:
        self.calls.append(("pin", address, num_bytes))
        self.num_pins += 1
        code = self.fail_pins.get(self.num_pins - 1, 0)
        if any(a < address + num_bytes and address < a + n for a, n in self.registered.items()):
            code = 712  # cudaErrorHostMemoryAlreadyRegistered
        if code == 0:
            self.registered[address] = num_bytes
        self.last_error = code or self.last_error
        return code

    def unpin(self, address: int) -> int:
        self.calls.append(("unpin", address, 0))
        code = 0 if address in self.registered and not self.fail_unpin else 713
        self.registered.pop(address, None)
        self.last_error = code or self.last_error
        return code

    def clear(self) -> int:
        self.calls.append(("clear", 0, 0))
        code, self.last_error = self.last_error, 0
        return code
