"""FallbackStore: several stores as one, nearest first; what is found farther away is promoted."""

import threading
from collections import Counter
from collections.abc import Callable, Sequence

from ..errors import StorageError
from .calls import OpenCalls
from .limit import Limit, is_over
from .promotion import Promoter
from .protocol import STAT_NAMES, Capabilities, PageStore, check_lengths
from .several import (
    OneOfSeveral,
    PageWrite,
    PoolBatch,
    exists_many,
    part_of,
    read_many,
    write_many,
)

PROMOTION_BYTES = 64 << 20


class FallbackStore(OneOfSeveral):
    """A page is read from the first store that has it, and written to every store that lacks it.

    What a farther store delivered is copied into the nearer ones, by a thread of its own. The
    copies that wait hold at most `promotion_bytes`; pages beyond are not promoted, and counted.
    The stores belong to this object: close() closes them.
    """

    def __init__(
        self, stores: Sequence[PageStore], *, promotion_bytes: int = PROMOTION_BYTES
    ) -> None:
        """StorageError without stores, or with a negative `promotion_bytes`; 0 is no promotion."""
        if not stores or promotion_bytes < 0:
            raise StorageError(
                f"FallbackStore of {len(stores)} stores, promotion_bytes={promotion_bytes}: "
                "expected at least one, and 0 or more"
            )
        self.stores = tuple(stores)
        self._calls = OpenCalls("FallbackStore")
        self._promoter = Promoter(promotion_bytes)
        self._lock = threading.Lock()
        self._counters = Counter(dict.fromkeys(STAT_NAMES, 0))

    @property
    def capabilities(self) -> Capabilities:
        """Of all stores together; pages persist, or are shared, where one store does so."""
        each = [store.capabilities for store in self.stores]
        return Capabilities(
            zero_copy=all(c.zero_copy for c in each),
            atomic_batch=False,
            quota=all(c.quota for c in each),
            persistent=any(c.persistent for c in each),
            shared=any(c.shared for c in each),
        )

    def exists_many(
        self, batches: Sequence[PoolBatch], limit: Limit | None = None
    ) -> list[list[bool]]:
        with self._calls.one():
            return self._exists(batches, limit)

    def read_many(
        self, batches: Sequence[PoolBatch], limit: Limit | None = None
    ) -> list[list[bool]]:
        for batch in batches:
            check_lengths(*batch)
        with self._calls.one():
            results = [[False] * len(batch.keys) for batch in batches]
            for depth, store in enumerate(self.stores):
                if depth and (all(map(all, results)) or is_over(limit)):
                    break
                for found in _ask_rest(read_many, store, batches, results, limit):
                    if depth and found.keys:
                        self._promoter.offer(self.stores[:depth], *found)
                    num_bytes = sum(page.nbytes for page in found.pages)
                    self._count(num_read_pages=len(found.keys), read_bytes=num_bytes)
            self._count(num_missed_pages=sum(told.count(False) for told in results))
            return results

    def write_many(
        self, batches: Sequence[PoolBatch], limit: Limit | None = None
    ) -> list[list[PageWrite]]:
        """Not REFUSED where at least one store has the page now, NEW where none had it."""
        for batch in batches:
            check_lengths(*batch)
        with self._calls.one():
            each = [write_many(store, batches, limit) for store in self.stores]
            fates = [list(map(_fate, *told)) for told in zip(*each, strict=True)]
            for batch, told in zip(batches, fates, strict=True):
                pages = zip(batch.pages, told, strict=True)
                new = [page.nbytes for page, fate in pages if fate is PageWrite.NEW]
                self._count(num_written_pages=len(new), written_bytes=sum(new))
            return fates

    def remove(self, pool: str, keys: Sequence[bytes]) -> int:
        with self._calls.one():
            self._promoter.settle()  # else it brings back what is removed
            unique = list(dict.fromkeys(keys))
            (are_there,) = self._exists([PoolBatch(pool, unique)], None)
            for store in self.stores:
                store.remove(pool, unique)
            return sum(are_there)

    def clear(self) -> None:
        with self._calls.one():
            self._promoter.settle()
            for store in self.stores:
                store.clear()

    def settle(self) -> None:
        """Waits until what was to be promoted is."""
        with self._calls.one():
            self._promoter.settle()

    def stats(self) -> dict[str, int]:
        """STAT_NAMES of this object's own calls (num_pages: of the store that has most),
        num_promoted_pages, num_unpromoted_pages, and all of each store as store<i>_<name>.
        """
        each = [store.stats() for store in self.stores]
        told = {f"store{i}_{name}": n for i, stats in enumerate(each) for name, n in stats.items()}
        with self._lock:
            told |= self._counters
        num_pages = max(stats["num_pages"] for stats in each)
        return told | self._promoter.stats() | {"num_pages": num_pages}

    def close(self) -> None:
        if self._calls.close():
            self._promoter.close()
            for store in self.stores:
                store.close()

    def _exists(self, batches: Sequence[PoolBatch], limit: Limit | None) -> list[list[bool]]:
        results = [[False] * len(batch.keys) for batch in batches]
        for store in self.stores:
            _ask_rest(exists_many, store, batches, results, limit)
        return results

    def _count(self, **numbers: int) -> None:
        with self._lock:
            self._counters.update(numbers)


def _ask_rest(
    ask: Callable[[PageStore, list[PoolBatch], Limit | None], list[list[bool]]],
    store: PageStore,
    batches: Sequence[PoolBatch],
    results: list[list[bool]],
    limit: Limit | None,
) -> list[PoolBatch]:
    """Asks it for what is False in `results`; what it has is True then, and returned."""
    rests = [[i for i, is_found in enumerate(told) if not is_found] for told in results]
    asked = [part_of(batch, rest) for batch, rest in zip(batches, rests, strict=True)]
    found = []
    for batch, told, rest, answers in zip(
        batches, results, rests, ask(store, asked, limit), strict=True
    ):
        some = [i for i, is_found in zip(rest, answers, strict=True) if is_found]
        for i in some:
            told[i] = True
        found.append(part_of(batch, some))
    return found


def _fate(*fates: PageWrite) -> PageWrite:
    """Of one page, in all stores together."""
    return next((f for f in (PageWrite.THERE, PageWrite.NEW) if f in fates), PageWrite.REFUSED)
