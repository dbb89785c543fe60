"""Host pages that a store call may still touch which hangs and whose op is over.

A rank's own affair: host pages are voted on when they are taken, so ranks may have different
numbers of free ones.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

from hicache_ext.flow.io import Io, wait
from hicache_ext.flow.pools import PoolSet
from hicache_ext.pool import PageState
from hicache_ext.tier import Tier


@dataclass
class Loan:
    """Pages that some calls have until all of them have returned."""

    calls: tuple[Future[Any], ...]
    written: Mapping[str, list[int]] = field(default_factory=dict)  # in I/O
    read: Mapping[str, set[int]] = field(default_factory=dict)  # the tree's, too, ...
    kept: dict[str, list[int]] = field(default_factory=dict)  # ... until it gave these up

    @property
    def is_over(self) -> bool:
        return all(call.done() for call in self.calls)


class Lent:
    """Pages are free when the calls have returned, and nobody else owns them."""

    def __init__(self, pools: PoolSet, io: Io) -> None:
        self._pools, self._io = pools, io
        self._loans: list[Loan] = []
        pools.withhold = self._withhold

    @property
    def num_pages(self) -> int:
        """That nobody can have, of all pools."""
        pages = (some for loan in self._loans for some in (loan.written, loan.kept))
        return sum(len(ids) for some in pages for ids in some.values())

    def __len__(self) -> int:
        """Ops whose calls have not returned."""
        return len(self._loans)

    def kept(self, name: str) -> list[int]:
        """Pages that the tree gave up and that are still marked as attached."""
        return [page_id for loan in self._loans for page_id in loan.kept.get(name, ())]

    def lend(
        self,
        calls: Iterable[Future[Any]],
        written: Mapping[str, list[int]],
        read: Mapping[str, Sequence[int]] | None = None,
    ) -> None:
        """`written` are in I/O, `read` the tree's; with none, the calls alone are kept in sight."""
        reads = {name: set(ids) for name, ids in (read or {}).items()}
        self._loans.append(Loan(tuple(calls), written, reads))
        for call in self._loans[-1].calls:
            self._io.give_up(call)

    def _withhold(self, name: str, page_ids: Sequence[int]) -> Sequence[int]:
        """Of these, which the tree gives up, those that nobody reads any more."""
        for loan in self._loans:
            if (read := loan.read.get(name)) and not loan.is_over:
                loan.kept.setdefault(name, []).extend(i for i in page_ids if i in read)
                page_ids = [i for i in page_ids if i not in read]
        return page_ids

    def take_back(self) -> None:
        """Once per tick: frees what has come back."""
        if not self._loans:
            return
        loans, self._loans = self._loans, []
        for loan in loans:
            if loan.is_over:
                self._pools.move(Tier.HOST, loan.written, PageState.RESERVED)
                self._pools.free(Tier.HOST, loan.written)
                self._pools.free(Tier.HOST, loan.kept)
            else:
                self._loans.append(loan)

    def wait(self) -> None:
        """Until all has come back."""
        for loan in self._loans:
            for call in loan.calls:
                wait(call)
        self.take_back()
