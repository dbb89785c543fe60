"""Writing host pages to a store: in batches, and only what it has not."""

from __future__ import annotations

import threading
from collections.abc import Sequence

from hicache_ext.flow.pools import PoolSet
from hicache_ext.storage.protocol import PageStore
from hicache_ext.tier import Tier

WRITE_BATCH_BYTES = 32 << 20  # between two looks at the stop flag: 10 to 100 ms of a disk


class Writes:
    """Keys and pages per pool, for one op."""

    def __init__(self, pools: PoolSet) -> None:
        self._pools = pools
        self.by_pool: dict[str, tuple[list[bytes], list[memoryview]]] = {}

    def add(self, component: str, keys: Sequence[bytes], page_ids: Sequence[int]) -> None:
        """The host pages of a component, and those of its sidecars; holes (-1) are skipped."""
        for name in (component, *self._pools.sidecars_of(component)):
            pool = self._pools.get(Tier.HOST, name)
            to_keys, to_pages = self.by_pool.setdefault(name, ([], []))
            for key, page_id in zip(keys, page_ids, strict=True):
                if page_id >= 0:
                    to_keys.append(key)
                    to_pages.append(pool.page_view(page_id))


def write_missing(store: PageStore, writes: Writes, stop: threading.Event) -> dict[str, int]:
    """Writes what the store lacks until `stop` is set; returns the pages written, per pool.

    FULL pages come last: an endpoint shows in the store only once all else of it is there.
    """
    num_written: dict[str, int] = {}
    for name, (keys, pages) in sorted(writes.by_pool.items(), key=lambda w: w[0] == "full"):
        num_written[name] = 0
        step = max(1, WRITE_BATCH_BYTES // pages[0].nbytes) if pages else 1
        for start in range(0, len(keys), step):
            if stop.is_set():
                return num_written
            batch = keys[start : start + step]
            known = store.exists(name, batch)
            lacking = [i for i in range(len(batch)) if not (i < len(known) and known[i])]
            if lacking:
                wanted = [batch[i] for i in lacking], [pages[start + i] for i in lacking]
                num_written[name] += sum(store.write_from(name, *wanted))
    return num_written
