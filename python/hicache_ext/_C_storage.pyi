"""The I/O engine of stored pages; a part of _C.pyi, and no module of its own."""

from collections.abc import Sequence

# --- bind_io_engine.cpp
class IoOp:
    READ: IoOp
    WRITE: IoOp

class IoPath:
    AUTO: IoPath
    URING: IoPath
    THREADS: IoPath

class IoEngine:
    def __init__(
        self,
        path: IoPath = ...,
        *,
        max_in_flight_bytes: int = ...,
        max_call_bytes: int = ...,
        num_threads: int = ...,
    ) -> None: ...
    def run(
        self,
        requests: Sequence[tuple[IoOp, int, int, Sequence[object]]],  # op, file, offset, buffers
        *,
        timeout_s: float | None = None,
    ) -> list[int]: ...  # an errno for each, 0: all bytes were moved
    def sync(self, file: int) -> int: ...
    def add_buffer(self, address: int, num_bytes: int) -> None: ...
    def remove_buffer(self, address: int) -> None: ...
    def add_file(self, file: int) -> None: ...
    def remove_file(self, file: int) -> None: ...
    @property
    def report(self) -> dict[str, str]: ...

def probe_direct_io(folder: str) -> tuple[bool, str]: ...  # why not

# --- bind_page_pool.cpp
class PoolDurability:
    NONE: PoolDurability
    BATCH: PoolDurability
    PAGE: PoolDurability
    __members__: dict[str, PoolDurability]

class PagePool:
    def __init__(
        self,
        engine: IoEngine,
        *,
        name: str,
        dir_fd: int,
        owner: bytes,
        page_bytes: int,
        durability: PoolDurability,
        segment_bytes: int,
        max_bytes: int,
    ) -> None: ...
    def find(self, keys: Sequence[bytes]) -> list[bool]: ...
    def remove(self, keys: Sequence[bytes]) -> int: ...
    def clear(self) -> int: ...  # an errno, 0: done
    def stats(self) -> dict[str, int]: ...
    @property
    def failure(self) -> int: ...  # the errno that made it read-only
    def close(self) -> None: ...

_Part = tuple[PagePool, Sequence[bytes], Sequence[memoryview]]

def read_pools(
    parts: Sequence[_Part], *, deadline_ns: int, cancelled: bytearray | None
) -> list[list[bool]]: ...
def write_pools(
    parts: Sequence[_Part], *, deadline_ns: int, cancelled: bytearray | None
) -> list[tuple[list[bool], list[bool]]]: ...  # of each: which are stored, and which by this call
