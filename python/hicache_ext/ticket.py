"""A copy that was asked for: the object that owns its buffers until it is done."""

from __future__ import annotations

import contextlib
from typing import Any

from hicache_ext import _C
from hicache_ext.errors import HiCacheError
from hicache_ext.profile import NO_RANGES, CopyRanges
from hicache_ext.streams import stream_handle


class Ticket:
    """A copy that was asked for. It owns its buffers until the copy is done.

    The CPU executors return when the bytes are there, so their tickets are born done. Dropping the
    ticket of a CUDA copy that still runs blocks until it is done: nothing is freed under it.
    """

    def __init__(
        self,
        num_bytes: int,
        owned: tuple[object, ...] = (),
        running: _C.CopyTicket | None = None,
        ranges: CopyRanges = NO_RANGES,
    ) -> None:
        self._num_bytes = num_bytes
        self._owned = owned
        self._running = running
        self._ranges = ranges  # closed when the copy is seen done
        if running is None:
            ranges.close()

    def query(self) -> bool:
        """Whether the copy is done, well or not."""
        is_done = self._running is None or self._running.query()
        if is_done:
            self._ranges.close()
        return is_done

    def wait(self, stream: Any = None) -> None:
        """Without a stream, block until the copy is done; with one, let the stream wait for it."""
        if self._running is None:
            return
        if stream is None:
            try:
                self._running.wait()
            finally:
                self._ranges.close()
        else:
            self._running.wait_on_stream(stream_handle(stream))

    def result(self) -> int:
        """Bytes that the copy moved, after waiting for it; raises what went wrong.

        PageIndexError: the first id out of range that the GPU met. Its page was skipped, and the
        other pages were copied.
        """
        if self._running is None:
            return self._num_bytes
        self.wait()
        return self._running.result()

    def __del__(self) -> None:
        if getattr(self, "_running", None) is not None:
            with contextlib.suppress(HiCacheError):  # result() is where it is told
                self.wait()
