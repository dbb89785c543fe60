"""FallbackStore: several stores as one, nearest first; what is found farther away is promoted."""

import threading
from collections import Counter
from collections.abc import Sequence

from ..errors import StorageError
from .calls import OpenCalls
from .limit import Limit, is_over
from .promotion import Promoter
from .protocol import STAT_NAMES, Capabilities, PageStore, check_lengths

PROMOTION_BYTES = 64 << 20


class FallbackStore:
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

    def exists(self, pool: str, keys: Sequence[bytes], limit: Limit | None = None) -> list[bool]:
        with self._calls.one():
            return self._exists(pool, keys, limit)

    def read_into(
        self,
        pool: str,
        keys: Sequence[bytes],
        pages: Sequence[memoryview],
        limit: Limit | None = None,
    ) -> list[bool]:
        check_lengths(pool, keys, pages)
        with self._calls.one():
            results = _padded(self.stores[0].read_into(pool, keys, pages, limit), len(keys))
            for depth, store in enumerate(self.stores[1:], 1):
                asked = [i for i, is_read in enumerate(results) if not is_read]
                if not asked or is_over(limit):
                    break
                part = [keys[i] for i in asked], [pages[i] for i in asked]
                answers = store.read_into(pool, *part, limit)
                found = [i for i, is_read in zip(asked, answers, strict=False) if is_read]
                for i in found:
                    results[i] = True
                if found:
                    part = [keys[i] for i in found], [pages[i] for i in found]
                    self._promoter.offer(self.stores[:depth], pool, *part)
            read = [page.nbytes for page, is_read in zip(pages, results, strict=True) if is_read]
            self._count(num_read_pages=len(read), read_bytes=sum(read))
            self._count(num_missed_pages=len(keys) - len(read))
            return results

    def write_from(
        self,
        pool: str,
        keys: Sequence[bytes],
        pages: Sequence[memoryview],
        limit: Limit | None = None,
    ) -> list[bool]:
        """True where at least one store has the page now."""
        check_lengths(pool, keys, pages)
        with self._calls.one():
            had, has = [False] * len(keys), [False] * len(keys)
            for store in self.stores:
                known = _padded(store.exists(pool, keys, limit), len(keys))
                lacking = [i for i, is_there in enumerate(known) if not is_there]
                had = [a or b for a, b in zip(had, known, strict=True)]
                part = [keys[i] for i in lacking], [pages[i] for i in lacking]
                for i, is_taken in zip(lacking, store.write_from(pool, *part, limit), strict=False):
                    known[i] = is_taken
                has = [a or b for a, b in zip(has, known, strict=True)]
            new = {key: i for i, key in enumerate(keys) if has[i] and not had[i]}
            num_bytes = sum(pages[i].nbytes for i in new.values())
            self._count(num_written_pages=len(new), written_bytes=num_bytes)
            return has

    def remove(self, pool: str, keys: Sequence[bytes]) -> int:
        with self._calls.one():
            self._promoter.settle()  # else it brings back what is removed
            unique = list(dict.fromkeys(keys))
            num_there = sum(self._exists(pool, unique, None))
            for store in self.stores:
                store.remove(pool, unique)
            return num_there

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

    def _exists(self, pool: str, keys: Sequence[bytes], limit: Limit | None) -> list[bool]:
        results = _padded(self.stores[0].exists(pool, keys, limit), len(keys))
        for store in self.stores[1:]:
            asked = [i for i, is_there in enumerate(results) if not is_there]
            answers = store.exists(pool, [keys[i] for i in asked], limit)
            for i, is_there in zip(asked, answers, strict=False):
                results[i] = is_there
        return results

    def _count(self, **numbers: int) -> None:
        with self._lock:
            self._counters.update(numbers)


def _padded(answers: Sequence[bool], num_keys: int) -> list[bool]:
    """A store that answers short has not done the rest."""
    return [*answers[:num_keys], *[False] * (num_keys - len(answers))]
