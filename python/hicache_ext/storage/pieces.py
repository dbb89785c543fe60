"""PieceStore: pages that are stored as several objects, so that somebody else may want only some.

A page is there if all its pieces are. A piece is an object of the inner store, in a pool of its
own; which bytes of a page it is, the cut says. Nothing is copied: a piece is a view of its page.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from ..errors import StorageError
from .limit import Limit
from .protocol import Capabilities, PageStore, check_keys, check_pages
from .several import OneOfSeveral, PageWrite, PoolBatch, exists_many, read_many, write_many

# A pool of the inner store for each. What somebody else may want alone is better in few pieces.
MAX_PIECES = 64
MAX_RUNS = 4


@dataclass(frozen=True)
class Piece:
    """`num_bytes` of a page from `offset` on, kept in `pool` of the inner store."""

    pool: str
    offset: int
    num_bytes: int


class _Cut(NamedTuple):
    """A batch in pieces; those of a pool that is unknown are none."""

    num_pages: int
    pieces: list[PoolBatch]


class PieceStore(OneOfSeveral):
    """A PageStore whose pools are cut into pools of `inner`, which it owns and closes.

    stats() are those of `inner`: they count pieces.
    """

    def __init__(self, inner: PageStore, cuts: Mapping[str, Sequence[Piece]]) -> None:
        """`cuts`: {pool: its pieces}, each byte of a page in one of them (StorageError)."""
        self._inner = inner
        self._cuts = {pool: tuple(cut) for pool, cut in cuts.items()}
        self._page_bytes = {pool: _page_bytes(pool, cut) for pool, cut in self._cuts.items()}

    @property
    def capabilities(self) -> Capabilities:
        return replace(self._inner.capabilities, atomic_batch=False)

    def exists_many(
        self, batches: Sequence[PoolBatch], limit: Limit | None = None
    ) -> list[list[bool]]:
        for batch in batches:
            check_keys(batch.pool, batch.keys)
        cuts = [self._cut(batch) for batch in batches]
        return _all_of(exists_many(self._inner, _flat(cuts), limit), cuts)

    def read_many(
        self, batches: Sequence[PoolBatch], limit: Limit | None = None
    ) -> list[list[bool]]:
        """The pieces of a page that is a miss may have been filled."""
        return self._read([self._cut(batch, "read") for batch in batches], limit)

    def write_many(
        self, batches: Sequence[PoolBatch], limit: Limit | None = None
    ) -> list[list[PageWrite]]:
        """Of a page that is REFUSED some pieces may have been stored: they are found by who writes
        the page again."""
        return self._write([self._cut(batch, "write") for batch in batches], limit)

    def read_pieces(
        self,
        pool: str,
        keys: Sequence[bytes],
        columns: Sequence[Sequence[memoryview]],
        limit: Limit | None = None,
    ) -> list[bool]:
        """read_into() where pages do not lie together: columns[p][i] is piece p of page i."""
        return self._read([self._of_columns(pool, keys, columns)], limit)[0]

    def write_pieces(
        self,
        pool: str,
        keys: Sequence[bytes],
        columns: Sequence[Sequence[memoryview]],
        limit: Limit | None = None,
    ) -> list[bool]:
        """write_from() likewise."""
        (fates,) = self._write([self._of_columns(pool, keys, columns)], limit)
        return [fate is not PageWrite.REFUSED for fate in fates]

    def remove(self, pool: str, keys: Sequence[bytes]) -> int:
        different = list(dict.fromkeys(keys))
        num_there = sum(self.exists(pool, different))
        for piece in self._cuts.get(pool, ()):
            self._inner.remove(piece.pool, different)
        return num_there

    def clear(self) -> None:
        self._inner.clear()

    def stats(self) -> dict[str, int]:
        return self._inner.stats()

    def close(self) -> None:
        self._inner.close()

    def _read(self, cuts: Sequence[_Cut], limit: Limit | None) -> list[list[bool]]:
        return _all_of(read_many(self._inner, _flat(cuts), limit), cuts)

    def _write(self, cuts: Sequence[_Cut], limit: Limit | None) -> list[list[PageWrite]]:
        told = iter(write_many(self._inner, _flat(cuts), limit))
        columns = [[next(told) for _ in cut.pieces] for cut in cuts]
        return [
            list(map(_fate, *each)) if each else [PageWrite.REFUSED] * cut.num_pages
            for cut, each in zip(cuts, columns, strict=True)
        ]

    def _cut(self, batch: PoolBatch, access: str = "") -> _Cut:
        if batch.pool not in self._cuts:
            return _Cut(len(batch.keys), [])
        if access:
            check_pages(*batch, self._page_bytes[batch.pool], access)
        flat = [page.cast("B") for page in batch.pages]
        columns = [
            [page[piece.offset : piece.offset + piece.num_bytes] for page in flat]
            for piece in self._cuts[batch.pool]
        ]
        return self._of_columns(batch.pool, batch.keys, columns)

    def _of_columns(
        self, pool: str, keys: Sequence[bytes], columns: Sequence[Sequence[memoryview]]
    ) -> _Cut:
        pieces = zip(self._cuts.get(pool, ()), columns, strict=False)
        return _Cut(len(keys), [PoolBatch(piece.pool, keys, pages) for piece, pages in pieces])


class ReplicaStore(PieceStore):
    """Of a rank whose pages another rank has too, and stores: it reads them, and a write is True
    and stores nothing."""

    def _write(self, cuts: Sequence[_Cut], limit: Limit | None) -> list[list[PageWrite]]:
        return [
            [PageWrite.THERE if cut.pieces else PageWrite.REFUSED] * cut.num_pages for cut in cuts
        ]


def _flat(cuts: Sequence[_Cut]) -> list[PoolBatch]:
    return [piece for cut in cuts for piece in cut.pieces]


def _all_of(answers: Sequence[list[bool]], cuts: Sequence[_Cut]) -> list[list[bool]]:
    """Which pages are True in all pieces; `answers` of these, one after the other."""
    told = iter(answers)
    columns = [[next(told) for _ in cut.pieces] for cut in cuts]
    return [
        [all(pieces) for pieces in zip(*each, strict=True)] if each else [False] * cut.num_pages
        for cut, each in zip(cuts, columns, strict=True)
    ]


def _fate(*pieces: PageWrite) -> PageWrite:
    return next((f for f in (PageWrite.REFUSED, PageWrite.NEW) if f in pieces), PageWrite.THERE)


def _page_bytes(pool: str, cut: Sequence[Piece]) -> int:
    if not 1 <= len(cut) <= MAX_PIECES:
        raise StorageError(f"pool {pool!r} in {len(cut)} pieces, expected 1 to {MAX_PIECES}")
    end = 0
    for piece in sorted(cut, key=lambda piece: piece.offset):
        if piece.offset != end or piece.num_bytes < 1:
            raise StorageError(f"pool {pool!r}: {piece} where byte {end} of a page was next")
        end += piece.num_bytes
    return end
