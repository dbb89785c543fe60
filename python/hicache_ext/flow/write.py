"""Writing host pages to a store: in batches, and only what it has not."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from hicache_ext.flow.pools import PoolSet
from hicache_ext.storage.limit import Limit
from hicache_ext.storage.protocol import PageStore
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
    """Writes what the store lacks until `stop` is over. Calls `moved` after each batch.

    FULL pages come last: an endpoint shows in the store only once all else of it is there.
    """
    written = Written()
    for name, (keys, pages) in sorted(writes.by_pool.items(), key=lambda w: w[0] == "full"):
        written.num_pages[name] = 0
        step = max(1, WRITE_BATCH_BYTES // pages[0].nbytes) if pages else 1
        for start in range(0, len(keys), step):
            batch = keys[start : start + step]
            known = [] if stop.is_over else store.exists(name, batch, stop)
            lacking = [i for i in range(len(batch)) if not (i < len(known) and known[i])]
            taken: list[bool] = []
            if lacking and not stop.is_over:
                wanted = [batch[i] for i in lacking], [pages[start + i] for i in lacking]
                taken = store.write_from(name, *wanted, stop)
            written.num_pages[name] += sum(taken)
            written.num_refused += len(lacking) - sum(taken)
            moved()
    return written
