"""PieceStore: pages that are stored as several objects, so that somebody else may want only some.

A page is there if all its pieces are. A piece is an object of the inner store, in a pool of its
own; which bytes of a page it is, the cut says. Nothing is copied: a piece is a view of its page.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

from ..errors import StorageError
from .limit import Limit
from .protocol import Capabilities, PageStore, check_keys, check_pages

_Item = TypeVar("_Item")

# One call to the inner store for each. What somebody else may want alone is better in few pieces.
MAX_PIECES = 64
MAX_RUNS = 4


@dataclass(frozen=True)
class Piece:
    """`num_bytes` of a page from `offset` on, kept in `pool` of the inner store."""

    pool: str
    offset: int
    num_bytes: int


class PieceStore:
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

    def exists(self, pool: str, keys: Sequence[bytes], limit: Limit | None = None) -> list[bool]:
        check_keys(pool, keys)
        return self._of_all(
            pool,
            keys,
            lambda i, piece, some: self._inner.exists(piece.pool, _at(keys, some), limit),
        )

    def read_into(
        self,
        pool: str,
        keys: Sequence[bytes],
        pages: Sequence[memoryview],
        limit: Limit | None = None,
    ) -> list[bool]:
        return self.read_pieces(pool, keys, self._cut(pool, keys, pages, "read"), limit)

    def write_from(
        self,
        pool: str,
        keys: Sequence[bytes],
        pages: Sequence[memoryview],
        limit: Limit | None = None,
    ) -> list[bool]:
        return self.write_pieces(pool, keys, self._cut(pool, keys, pages, "write"), limit)

    def read_pieces(
        self,
        pool: str,
        keys: Sequence[bytes],
        columns: Sequence[Sequence[memoryview]],
        limit: Limit | None = None,
    ) -> list[bool]:
        """read_into() where pages do not lie together: columns[p][i] is piece p of page i.

        The pieces of a page that is a miss may have been filled.
        """
        return self._of_all(
            pool,
            keys,
            lambda i, piece, some: self._inner.read_into(
                piece.pool, _at(keys, some), _at(columns[i], some), limit
            ),
        )

    def write_pieces(
        self,
        pool: str,
        keys: Sequence[bytes],
        columns: Sequence[Sequence[memoryview]],
        limit: Limit | None = None,
    ) -> list[bool]:
        """write_from() likewise. Of a page that is False some pieces may have been stored: they
        are found by who writes the page again."""
        return self._of_all(
            pool,
            keys,
            lambda i, piece, some: self._inner.write_from(
                piece.pool, _at(keys, some), _at(columns[i], some), limit
            ),
        )

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

    def _of_all(
        self,
        pool: str,
        keys: Sequence[bytes],
        call: Callable[[int, Piece, list[int]], list[bool]],
    ) -> list[bool]:
        """Which pages `call` is true of in each piece; it is asked of those still in question."""
        some = list(range(len(keys))) if pool in self._cuts else []
        for piece_idx, piece in enumerate(self._cuts.get(pool, ())):
            if some:
                told = call(piece_idx, piece, some)
                some = [i for i, is_so in zip(some, told, strict=True) if is_so]
        result = [False] * len(keys)
        for i in some:
            result[i] = True
        return result

    def _cut(
        self, pool: str, keys: Sequence[bytes], pages: Sequence[memoryview], access: str
    ) -> list[list[memoryview]]:
        if pool not in self._cuts:
            return []
        check_pages(pool, keys, pages, self._page_bytes[pool], access)
        flat = [page.cast("B") for page in pages]
        return [
            [page[piece.offset : piece.offset + piece.num_bytes] for page in flat]
            for piece in self._cuts[pool]
        ]


class ReplicaStore(PieceStore):
    """Of a rank whose pages another rank has too, and stores: it reads them, and a write is True
    and stores nothing."""

    def write_pieces(
        self,
        pool: str,
        keys: Sequence[bytes],
        columns: Sequence[Sequence[memoryview]],
        limit: Limit | None = None,
    ) -> list[bool]:
        return [pool in self._cuts] * len(keys)


def _at(items: Sequence[_Item], some: list[int]) -> list[_Item]:
    return [items[i] for i in some]


def _page_bytes(pool: str, cut: Sequence[Piece]) -> int:
    if not 1 <= len(cut) <= MAX_PIECES:
        raise StorageError(f"pool {pool!r} in {len(cut)} pieces, expected 1 to {MAX_PIECES}")
    end = 0
    for piece in sorted(cut, key=lambda piece: piece.offset):
        if piece.offset != end or piece.num_bytes < 1:
            raise StorageError(f"pool {pool!r}: {piece} where byte {end} of a page was next")
        end += piece.num_bytes
    return end
