"""Several pools in one call: one submission of a disk, one round trip of a server where it can be.

A store may have the calls of SeveralPools. The functions here are for any PageStore: those of one
that has not are made pool by pool.
"""

from abc import abstractmethod
from collections.abc import Sequence
from enum import Enum
from typing import NamedTuple, Protocol, runtime_checkable

from .limit import Limit
from .protocol import PageStore


class PoolBatch(NamedTuple):
    """A part of a call: keys of one pool and, but for exists_many(), a page for each."""

    pool: str
    keys: Sequence[bytes]
    pages: Sequence[memoryview] = ()


class PageWrite(Enum):
    """What became of a page that was to be there; of equal keys in a batch one is NEW at most."""

    NEW = "new"  # stored by this call
    THERE = "there"  # it was there, or somebody else stored it meanwhile
    REFUSED = "refused"  # not stored


@runtime_checkable
class SeveralPools(Protocol):
    """What a PageStore may have besides. An answer for each batch, as the calls about one pool have
    it: a batch of a pool that is unknown, or of no keys, is as good as any. Page by page, too, an
    error of the engine is False; a misuse of one batch is a StorageError of the whole call.
    """

    @abstractmethod
    def exists_many(
        self, batches: Sequence[PoolBatch], limit: Limit | None = None
    ) -> list[list[bool]]: ...

    @abstractmethod
    def read_many(
        self, batches: Sequence[PoolBatch], limit: Limit | None = None
    ) -> list[list[bool]]: ...

    @abstractmethod
    def write_many(
        self, batches: Sequence[PoolBatch], limit: Limit | None = None
    ) -> list[list[PageWrite]]:
        """Stores what is not there. A page is found no sooner than those of earlier batches."""
        ...


class OneOfSeveral(SeveralPools):
    """The calls about one pool, for a store that has those about several."""

    def exists(self, pool: str, keys: Sequence[bytes], limit: Limit | None = None) -> list[bool]:
        return self.exists_many([PoolBatch(pool, keys)], limit)[0]

    def read_into(
        self,
        pool: str,
        keys: Sequence[bytes],
        pages: Sequence[memoryview],
        limit: Limit | None = None,
    ) -> list[bool]:
        return self.read_many([PoolBatch(pool, keys, pages)], limit)[0]

    def write_from(
        self,
        pool: str,
        keys: Sequence[bytes],
        pages: Sequence[memoryview],
        limit: Limit | None = None,
    ) -> list[bool]:
        (fates,) = self.write_many([PoolBatch(pool, keys, pages)], limit)
        return [fate is not PageWrite.REFUSED for fate in fates]


def exists_many(
    store: PageStore, batches: Sequence[PoolBatch], limit: Limit | None = None
) -> list[list[bool]]:
    """store.exists() of each batch. A store that answers short has not got the rest."""
    if isinstance(store, SeveralPools):
        return store.exists_many(batches, limit)
    return [padded(store.exists(b.pool, b.keys, limit), len(b.keys)) for b in batches]


def read_many(
    store: PageStore, batches: Sequence[PoolBatch], limit: Limit | None = None
) -> list[list[bool]]:
    """store.read_into() of each batch, likewise."""
    if isinstance(store, SeveralPools):
        return store.read_many(batches, limit)
    return [padded(store.read_into(*b, limit), len(b.keys)) for b in batches]


def write_many(
    store: PageStore, batches: Sequence[PoolBatch], limit: Limit | None = None
) -> list[list[PageWrite]]:
    """Stores what the store lacks: it is asked first where it does not do that by itself."""
    if isinstance(store, SeveralPools):
        return store.write_many(batches, limit)
    return [_write_missing(store, batch, limit) for batch in batches]


def _write_missing(store: PageStore, batch: PoolBatch, limit: Limit | None) -> list[PageWrite]:
    are_there = padded(store.exists(batch.pool, batch.keys, limit), len(batch.keys))
    lacking = [i for i, is_there in enumerate(are_there) if not is_there]
    are_new = [False] * len(batch.keys)
    if lacking:
        written = set()
        taken = store.write_from(*part_of(batch, lacking), limit)
        for i, is_taken in zip(lacking, padded(taken, len(lacking)), strict=True):
            are_there[i] = is_taken
            are_new[i] = is_taken and batch.keys[i] not in written
            written.add(batch.keys[i])
    return fates_of(are_there, are_new)


def fates_of(are_stored: Sequence[bool], are_new: Sequence[bool]) -> list[PageWrite]:
    """Page by page."""
    return [
        PageWrite.NEW if is_new else PageWrite.THERE if is_stored else PageWrite.REFUSED
        for is_stored, is_new in zip(are_stored, are_new, strict=True)
    ]


def part_of(batch: PoolBatch, positions: Sequence[int]) -> PoolBatch:
    """These keys of it, and their pages if it has any."""
    keys = [batch.keys[i] for i in positions]
    return PoolBatch(batch.pool, keys, [batch.pages[i] for i in positions] if batch.pages else ())


def padded(answers: Sequence[bool] | None, num_keys: int) -> list[bool]:
    """A store that answers short, or not at all, has not done the rest."""
    told = [bool(answer) for answer in (answers or ())[:num_keys]]
    return told + [False] * (num_keys - len(told))
