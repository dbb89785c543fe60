"""Which memory a Mooncake engine may reach: host pools for long, other pages for one call each."""

import threading
from bisect import bisect_right
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from .. import _C
from ..errors import StorageError


def address_of(view: memoryview) -> int:
    """Of its first byte; at least one byte, contiguous, read-only or not."""
    return _C.array_address(np.frombuffer(view, np.uint8))


class EngineMemory:
    """The registrations of one engine. Thread-safe.

    RDMA moves bytes of registered memory only, and TCP does not check, so no address may go to the
    engine that is not covered here. It takes no two ranges that overlap.
    """

    def __init__(self, engine: Any) -> None:
        self._engine = engine
        self._lock = threading.Lock()
        self._starts: list[int] = []  # ascending, of the ranges in _kept
        self._kept: list[tuple[int, memoryview]] = []  # (end, the view that keeps it alive)
        self._num_users: Counter[tuple[int, int]] = Counter()  # of ranges registered for calls
        self.num_passing = 0  # ranges that were registered for one call

    def add(self, buffer: memoryview) -> None:
        """Register until remove(); the view is held, so that its owner cannot free the memory.

        StorageError if it is empty, not contiguous, or overlaps with what is registered.
        """
        if not buffer.nbytes or not buffer.c_contiguous:
            raise StorageError(f"cannot register {buffer!r}: {buffer.nbytes} bytes, or not one run")
        start = address_of(buffer)
        with self._lock:
            self._register(start, buffer.nbytes)
            at = bisect_right(self._starts, start)
            self._starts.insert(at, start)
            self._kept.insert(at, (start + buffer.nbytes, buffer))

    def remove(self, buffer: memoryview) -> None:
        """Undo add() of the same memory; StorageError if it is not registered. No call uses it."""
        start = address_of(buffer)
        with self._lock:
            at = bisect_right(self._starts, start) - 1
            if at < 0 or self._starts[at] != start:
                raise StorageError(f"memory at {start:#x} is not registered")
            self._engine.unregister_buffer(start)
            del self._starts[at], self._kept[at]

    def borrow(self, addresses: Sequence[int], num_bytes: int) -> list[int]:
        """Covers `num_bytes` at each; returns what had to be registered for that, for return_().

        StorageError, and nothing is registered, if the engine refuses one of them.
        """
        passing: list[int] = []
        with self._lock:
            for address in addresses:
                at = bisect_right(self._starts, address) - 1
                if at >= 0 and address + num_bytes <= self._kept[at][0]:
                    continue
                try:
                    if not self._num_users[address, num_bytes]:
                        self._register(address, num_bytes)
                        self.num_passing += 1
                except StorageError:
                    self._give_back(passing, num_bytes)
                    raise
                self._num_users[address, num_bytes] += 1
                passing.append(address)
        return passing

    def return_(self, passing: Sequence[int], num_bytes: int) -> None:
        """What borrow() returned; the engine's call is over."""
        with self._lock:
            self._give_back(passing, num_bytes)

    def clear(self) -> None:
        """Undo every add(). No call is in flight."""
        with self._lock:
            for start in self._starts:
                self._engine.unregister_buffer(start)
            self._starts.clear()
            self._kept.clear()

    def _give_back(self, passing: Sequence[int], num_bytes: int) -> None:
        for address in passing:
            self._num_users[address, num_bytes] -= 1
            if not self._num_users[address, num_bytes]:
                del self._num_users[address, num_bytes]
                self._engine.unregister_buffer(address)

    def _register(self, start: int, num_bytes: int) -> None:
        code = self._engine.register_buffer(start, num_bytes)
        if code != 0:
            raise StorageError(
                f"the engine did not register {num_bytes} bytes at {start:#x} (code {code}): "
                "they overlap with other registered memory, or cannot be pinned"
            )
