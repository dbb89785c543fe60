"""Promotion: pages that a far store delivered are written to nearer ones, beside the reader."""

import logging
import threading
from collections import deque
from collections.abc import Sequence
from typing import NamedTuple

from ..errors import StoreTimeout
from .protocol import PageStore

logger = logging.getLogger("hicache_ext")


class _Pages(NamedTuple):
    stores: Sequence[PageStore]
    pool: str
    keys: Sequence[bytes]
    pages: list[bytes]  # our own copies: the reader's buffers are the reader's again


class Promoter:
    """A thread that writes what waits in a line of at most `most_bytes`. Thread-safe."""

    def __init__(self, most_bytes: int) -> None:
        self._most_bytes = most_bytes
        self._num_bytes = 0  # of what waits, and of what is being written
        self._num_pages = self._num_lost = 0
        self._waiting: deque[_Pages] = deque()
        self._is_closed = False
        self._changed = threading.Condition()  # of all of the above
        self._thread = threading.Thread(target=self._run, name="hicache-promote", daemon=True)
        self._thread.start()

    def offer(
        self,
        stores: Sequence[PageStore],
        pool: str,
        keys: Sequence[bytes],
        pages: Sequence[memoryview],
    ) -> None:
        """Puts copies in line, of as many of the first pages as there is room for."""
        with self._changed:
            room = self._most_bytes - self._num_bytes
            num_pages = min(len(keys), room // max(1, pages[0].nbytes))
            self._num_bytes += num_pages * pages[0].nbytes
            self._num_lost += len(keys) - num_pages
        if num_pages:
            copies = [bytes(page) for page in pages[:num_pages]]
            with self._changed:
                self._waiting.append(_Pages(stores, pool, keys[:num_pages], copies))
                self._changed.notify_all()

    def settle(self) -> None:
        """Waits until nothing is in line or being written."""
        with self._changed:
            self._changed.wait_for(lambda: self._num_bytes == 0)

    def stats(self) -> dict[str, int]:
        """Pages that the nearest store took, and those that it did not: no room in line, or full,
        or failing.
        """
        with self._changed:
            return {
                "num_promoted_pages": self._num_pages,
                "num_unpromoted_pages": self._num_lost,
            }

    def close(self) -> None:
        """Once what is in line is written. No offer() may come any more."""
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()
        self._thread.join()

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting or self._is_closed)
                if not self._waiting:
                    return
                offered = self._waiting.popleft()
            num_taken, *_ = [_write(store, offered) for store in offered.stores]
            with self._changed:
                self._num_pages += num_taken
                self._num_lost += len(offered.keys) - num_taken
                self._num_bytes -= sum(map(len, offered.pages))
                self._changed.notify_all()


def _write(store: PageStore, offered: _Pages) -> int:
    """How many pages the store has then. Its failure is no reader's: it is counted and logged."""
    pages = [memoryview(page) for page in offered.pages]
    try:
        return sum(store.write_from(offered.pool, offered.keys, pages))
    except Exception as error:
        if isinstance(error, StoreTimeout):
            error.wait()  # the engine still reads our copies
        logger.warning("promotion of %d pages failed: %r", len(pages), error)
        return 0
