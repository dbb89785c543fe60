"""The L3 of one rank: goes wrong at random, and keeps a log of what it answered."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from watched_store import WatchedStore

from hicache_ext.pool import HostPool, PageState
from hicache_ext.storage.faulty import Answer
from hicache_ext.storage.limit import Limit
from hicache_ext.storage.memory import MemoryStore

from .memory import PAGE_BYTES, POOLS, content

CALLS = ("exists", "read_into", "write_from")


class Answered(NamedTuple):
    call: str
    pool: str
    keys: list[bytes]
    results: list[bool] | None  # None: the call raised


class SimStore(WatchedStore):
    """Pages of this rank; `log` has every exists and read_into.

    What is read lands in its pages, and what is written leaves them, up to the end of the I/O call.
    """

    def __init__(
        self,
        rank: int,
        host: dict[str, HostPool],
        rng: random.Random,
        landing: list[Callable[[], None]],
    ) -> None:
        super().__init__(MemoryStore(dict.fromkeys(POOLS, PAGE_BYTES)), host)
        self.rank = rank
        self.log: list[Answered] = []
        self.content = lambda pool, key: content(rank, pool, key)
        self._rng = rng
        self._landing = landing

    def exists(self, pool: str, keys: Sequence[bytes], limit: Limit | None = None) -> list[bool]:
        return self._logged("exists", pool, keys)

    def read_into(
        self,
        pool: str,
        keys: Sequence[bytes],
        pages: Sequence[memoryview],
        limit: Limit | None = None,
    ) -> list[bool]:
        arrived = [memoryview(bytearray(page)) for page in pages]

        def land() -> None:
            self._watch("read into", pool, pages, PageState.IO)
            for page, got in zip(pages, arrived, strict=True):
                page[:] = got

        self._landing.append(land)
        return self._logged("read_into", pool, keys, arrived)

    def write_from(
        self,
        pool: str,
        keys: Sequence[bytes],
        pages: Sequence[memoryview],
        limit: Limit | None = None,
    ) -> list[bool]:
        self._landing.append(lambda: self._watch_write(pool, keys, pages))
        return super().write_from(pool, keys, pages, limit)

    def _logged(self, call: str, pool: str, keys: Sequence[bytes], *args: Any) -> list[bool]:
        results: list[bool] | None = None
        try:
            results = getattr(super(), call)(pool, keys, *args)
        finally:
            self.log.append(Answered(call, pool, list(keys), results))
        return results

    def fill(self, keys: Sequence[bytes], rate: float) -> None:
        """What an earlier process has left here, with gaps: mostly in the window."""
        for pool, gap_rate in (("full", (1 - rate) / 4), ("swa", 1 - rate)):
            kept = [key for key in keys if self._rng.random() >= gap_rate]
            pages = [memoryview(bytearray(content(self.rank, pool, key))) for key in kept]
            self.inner.write_from(pool, kept, pages)

    def trouble(self) -> str:
        """Begins to raise, to answer short or nothing, not to write, to lose pages; or is well."""
        rng, faults = self._rng, self.faults
        self.heal()
        if rng.random() < 0.2:
            faults.raising = {rng.choice(CALLS)}
        if rng.random() < 0.2:
            faults.answers = {rng.choice(POOLS): rng.choice(list(Answer))}
        if rng.random() < 0.2:
            faults.write_rate = 0.3
        for pool in POOLS:
            keys = list(self.inner._pages[pool])
            if keys and rng.random() < 0.1:
                self.inner.remove(pool, [rng.choice(keys)])
            if rng.random() < 0.4:
                faults.lost_on_read |= {(pool, key) for key in keys if rng.random() < 0.15}
        lost = sorted((pool, key.hex()[:6]) for pool, key in faults.lost_on_read)
        answers = {pool: answer.value for pool, answer in faults.answers.items()}
        return f"raising {faults.raising}, answers {answers}, lost on read {lost}"

    def heal(self) -> None:
        faults = self.faults
        faults.raising, faults.answers, faults.lost_on_read = set(), {}, set()
        faults.write_rate = 0.0
