"""A copy that was asked for: the object that owns its buffers until it is done."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from typing import Any, Protocol

from hicache_ext.errors import HiCacheError
from hicache_ext.profile import NO_RANGES, CopyRanges
from hicache_ext.streams import stream_handle


class Running(Protocol):
    """A copy under way, as an executor hands it out; _C.CopyTicket is one."""

    def query(self) -> bool:
        """Whether it has stopped, well or not; never blocks."""
        ...

    def wait(self) -> None: ...

    def wait_on_stream(self, stream: int) -> None: ...

    def result(self) -> int: ...


class Ticket:
    """A copy that was asked for. It owns its buffers until the copy is seen done, no longer: a pool
    can be closed while somebody keeps the ticket of a finished copy.

    The CPU executors return when the bytes are there, so their tickets are born done. Dropping the
    ticket of a CUDA copy that still runs blocks until it is done: nothing is freed under it.
    """

    def __init__(
        self,
        num_bytes: int,
        owned: tuple[object, ...] = (),
        running: Running | None = None,
        ranges: CopyRanges = NO_RANGES,
    ) -> None:
        self._num_bytes = num_bytes
        self._owned = owned
        self._running = running
        self._ranges = ranges  # closed when the copy is seen done
        if running is None:
            self._stopped()

    def query(self) -> bool:
        """Whether the copy is done, well or not."""
        is_done = self._running is None or self._running.query()
        if is_done:
            self._stopped()
        return is_done

    def wait(self, stream: Any = None) -> None:
        """Without a stream, block until the copy is done; with one, let the stream wait for it."""
        if self._running is None:
            return
        if stream is not None:
            self._running.wait_on_stream(stream_handle(stream))
            return
        try:
            self._running.wait()
        finally:
            self._stopped()

    def result(self) -> int:
        """Bytes that the copy moved, after waiting for it; raises what went wrong.

        PageIndexError: the first id out of range that the GPU met. Its page was skipped, and the
        other pages were copied.
        """
        if self._running is None:
            return self._num_bytes
        self.wait()
        return self._running.result()

    def _stopped(self) -> None:
        self._owned = ()
        self._ranges.close()

    def __del__(self) -> None:
        if getattr(self, "_running", None) is not None:
            with contextlib.suppress(HiCacheError):  # result() is where it is told
                self.wait()


def drain(tickets: Iterable[Ticket]) -> None:
    """Blocks until every one of these copies has stopped, well or not."""
    for ticket in tickets:
        with contextlib.suppress(HiCacheError):  # result() is where it is told
            ticket.wait()


def results(tickets: Iterable[Ticket]) -> int:
    """The bytes that these copies moved. All have stopped before the first error is raised."""
    tickets = list(tickets)
    drain(tickets)
    return sum(ticket.result() for ticket in tickets)
