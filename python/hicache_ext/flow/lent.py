"""Host pages of ops that are over, which a store call that hangs may still touch.

A rank's own affair: host pages are voted on when they are taken, so ranks may have different
numbers of free ones.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from concurrent.futures import Future
from typing import Any

from hicache_ext.flow.io import wait
from hicache_ext.flow.pools import PoolSet
from hicache_ext.pool import PageState
from hicache_ext.tier import Tier

Calls = tuple[Future[Any], ...]


class Lent:
    """They are in I/O until the calls have returned, and free then."""

    def __init__(self, pools: PoolSet) -> None:
        self._pools = pools
        self._loans: list[tuple[Calls, Mapping[str, list[int]]]] = []

    @property
    def num_pages(self) -> int:
        """Of all pools."""
        return sum(len(ids) for _, pages in self._loans for ids in pages.values())

    def __len__(self) -> int:
        """Ops whose calls have not returned."""
        return len(self._loans)

    def lend(self, calls: Iterable[Future[Any]], pages: Mapping[str, list[int]]) -> None:
        """`pages` are in I/O; with none, the calls alone are kept in sight."""
        self._loans.append((tuple(calls), pages))

    def take_back(self) -> None:
        """Once per tick: frees what has come back."""
        if not self._loans:
            return
        loans, self._loans = self._loans, []
        for calls, pages in loans:
            if all(call.done() for call in calls):
                self._pools.move(Tier.HOST, pages, PageState.RESERVED)
                self._pools.free(Tier.HOST, pages)
            else:
                self._loans.append((calls, pages))

    def wait(self) -> None:
        """Until all has come back."""
        for calls, _ in self._loans:
            for call in calls:
                wait(call)
        self.take_back()
