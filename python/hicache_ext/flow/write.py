"""Writing host pages to a store: in batches, and only what it has not."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from hicache_ext.flow.pools import PoolSet
from hicache_ext.flow.steps import steps_of
from hicache_ext.storage.limit import Limit
from hicache_ext.storage.protocol import PageStore
from hicache_ext.storage.several import PageWrite, PoolBatch, write_many
from hicache_ext.tier import Tier

WRITE_BATCH_BYTES = 32 << 20  # 10 to 100 ms of a disk, for a store that does not look at its limit


class Writes:
    """Keys and pages per pool, for one op."""

    def __init__(self, pools: PoolSet) -> None:
        self._pools = pools
        self.by_pool: dict[str, tuple[list[bytes], list[memoryview]]] = {}
        self.page_ids: dict[str, list[int]] = {}
        """Those that the sidecars share are of the pool that they follow."""

    @property
    def num_pages(self) -> int:
        return sum(len(pages) for _, pages in self.by_pool.values())

    def add(self, component: str, keys: Sequence[bytes], page_ids: Sequence[int]) -> None:
        """The host pages of a component, and those of its sidecars; holes (-1) are skipped."""
        self.page_ids.setdefault(component, []).extend(i for i in page_ids if i >= 0)
        for name in (component, *self._pools.sidecars_of(component)):
            pool = self._pools.get(Tier.HOST, name)
            to_keys, to_pages = self.by_pool.setdefault(name, ([], []))
            for key, page_id in zip(keys, page_ids, strict=True):
                if page_id >= 0:
                    to_keys.append(key)
                    to_pages.append(pool.page_view(page_id))


@dataclass
class Written:
    """What became of the pages of one op, on this rank."""

    num_pages: dict[str, int] = field(default_factory=dict)  # written, by pool
    num_refused: int = 0  # that the store lacked and did not take, or was not asked to


def write_missing(
    store: PageStore, writes: Writes, stop: Limit, moved: Callable[[], None] = lambda: None
) -> Written:
    """Writes what the store lacks until `stop` is over. Calls `moved` after each step.

    FULL pages come last: an endpoint shows in the store only once all else of it is there.
    """
    written = Written(dict.fromkeys(writes.by_pool, 0))
    in_order = sorted(writes.by_pool.items(), key=lambda w: w[0] == "full")
    wanted = [PoolBatch(name, keys, pages) for name, (keys, pages) in in_order]
    for step in steps_of([[batch] for batch in wanted], WRITE_BATCH_BYTES):
        if stop.is_over:
            written.num_refused += sum(len(batch.keys) for batch in step)
            continue
        for batch, fates in zip(step, write_many(store, step, stop), strict=True):
            written.num_pages[batch.pool] += fates.count(PageWrite.NEW)
            written.num_refused += fates.count(PageWrite.REFUSED)
        moved()
    return written
