"""MooncakeClient: a process's connection to a Mooncake cluster, and its calls under deadlines."""

import mmap
import threading
from typing import Any

from ..errors import StorageError
from .lanes import Lane, Lanes
from .mooncake_memory import EngineMemory, address_of
from .ports import free_port

# Of one call of the engine at most: large, since it uses its connections to the full only in the
# middle of a call. It queues 1024 transfers to a node, of which a page has two, and loses those
# that find no place within a second.
CHUNK_PAGES = 256
CHUNK_BYTES = 128 << 20
TRAILER_BYTES = 16
_LANE_BYTES = CHUNK_PAGES * TRAILER_BYTES
_LOCAL_BYTES = 1 << 20  # the engine's own buffer, of which our calls make no use


class MooncakeClient:
    """Any number of stores share one; thread-safe. `engine` is its MooncakeDistributedStore.

    The engine's calls block, so they are made on `lanes`. `memory` knows what the engine may reach:
    give it the host pools, client.memory.add(pool.memory.view()), before pages of them are moved.
    """

    def __init__(
        self,
        master: str,
        *,
        host: str = "127.0.0.1",
        protocol: str = "tcp",
        devices: str = "",
        num_lanes: int = 8,
        num_moves: int = 2,
        call_timeout_s: float = 2.0,
    ) -> None:
        """`master` is host:port of the cluster's master, `host` this machine's address as the
        storage nodes reach it; `devices` are the NICs of protocol "rdma", by commas. No call of the
        engine, of CHUNK_PAGES or CHUNK_BYTES at most, is waited for longer than `call_timeout_s`.
        Of those that move pages `num_moves` run at a time: the engine polls while it waits, and
        eight of them kept two processors from moving anything.

        StorageError if the engine is not installed or the master does not answer (after 5 s).
        """
        if num_lanes < 2 or num_moves < 1 or not call_timeout_s > 0:
            raise StorageError(
                f"num_lanes={num_lanes}, num_moves={num_moves}, call_timeout_s={call_timeout_s}: "
                "too small"
            )
        self.engine = load_engine().MooncakeDistributedStore()
        name = f"{host}:{free_port(host)}"
        code = self.engine.setup(name, "P2PHANDSHAKE", 0, _LOCAL_BYTES, protocol, devices, master)
        if code != 0:
            raise StorageError(f"no Mooncake cluster at {master} for {name} (code {code})")
        self.master = master
        self.call_timeout_s = call_timeout_s
        self.memory = EngineMemory(self.engine)
        self.lanes = Lanes(num_lanes)
        self.moves = threading.Semaphore(num_moves)
        self._trailers = memoryview(mmap.mmap(-1, num_lanes * _LANE_BYTES))
        self._trailer_address = address_of(self._trailers)
        self.memory.add(self._trailers)
        self._close_lock = threading.Lock()
        self._is_closed = False

    def trailers(self, lane: Lane) -> tuple[memoryview, int]:
        """CHUNK_PAGES checksums that belong to the lane's call, and their address; registered."""
        start = lane.index * _LANE_BYTES
        return self._trailers[start : start + _LANE_BYTES], self._trailer_address + start

    def close(self, timeout_s: float = 30.0) -> None:
        """Waits for the engine's calls; the stores are closed before. Closing twice is legal.

        StorageError if a call hangs: the engine stays as it is, since it may still write into
        pages. Not to be used then; closing again waits again.
        """
        with self._close_lock:
            if self._is_closed:
                return
            if not self.lanes.close(timeout_s):
                raise StorageError(f"Mooncake at {self.master}: a call hangs, after {timeout_s} s")
            self._is_closed = True  # another close, or any call after it, crashes the engine
            self.memory.clear()
            self.engine.close()


def load_engine() -> Any:
    """The module mooncake.store; StorageError that says what to install."""
    try:
        from mooncake import store
    except ImportError as error:
        raise StorageError(
            f"MooncakeStore needs pip install 'hicache_ext[mooncake]' and libibverbs1: {error}"
        ) from error
    return store
