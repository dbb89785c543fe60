"""Groups inside one process: a single rank, or simulated ranks for tests and simulations."""

from collections import deque
from dataclasses import dataclass, field

import numpy as np

from hicache_ext.agreement.group import OneCaller, issued_by_rank, one_caller
from hicache_ext.agreement.schema import Lanes
from hicache_ext.errors import AgreementError


@dataclass
class _Board:
    """What the simulated ranks of one group have issued and not yet all collected, by tick."""

    size: int
    num_lanes: int | None = None
    ticks: dict[int, dict[int, Lanes]] = field(default_factory=dict)
    uncollected: dict[int, int] = field(default_factory=dict)
    num_issued: dict[int, int] = field(default_factory=dict)
    closed: set[int] = field(default_factory=set)


class LocalGroup(OneCaller):
    """One rank: its own lanes are the minimum. `simulated(n)` makes n ranks for one thread."""

    kind = "local"

    def __init__(self) -> None:
        super().__init__()
        self._join(_Board(1), 0)

    @classmethod
    def simulated(cls, size: int) -> "list[LocalGroup]":
        """`size` ranks in this thread: all issue, then all collect, in any order.

        Nothing ever waits: result() before every rank has issued is an AgreementError at once.
        """
        if size < 1:
            raise AgreementError(f"a group needs at least one rank, got {size}")
        board = _Board(size)
        groups = [cls() for _ in range(size)]
        for rank, group in enumerate(groups):
            group._join(board, rank)
        return groups

    def _join(self, board: _Board, rank: int) -> None:
        self.rank, self.size = rank, board.size
        self._board = board
        board.num_issued[rank] = 0
        self._pending: deque[int] = deque()

    @one_caller
    def issue(self, lanes: Lanes) -> None:
        """See Group. The first issue of any rank fixes the number of lanes."""
        self._check_open()
        board = self._board
        if board.num_lanes is None:
            board.num_lanes = lanes.size
        self._check_issue(lanes, board.num_lanes, len(self._pending))
        tick = board.num_issued[self.rank]
        board.ticks.setdefault(tick, {})[self.rank] = lanes.copy()
        board.num_issued[self.rank] += 1
        self._pending.append(tick)

    def _missing(self) -> list[int]:
        if not self._pending:
            raise AgreementError(f"rank {self.rank}: no tick is issued")
        there = self._board.ticks[self._pending[0]]
        return [rank for rank in range(self.size) if rank not in there]

    @one_caller
    def ready(self) -> bool:
        """See Group."""
        self._check_open()
        return bool(self._pending) and not (set(self._missing()) - self._board.closed)

    @one_caller
    def result(self, deadline_s: float) -> Lanes:
        """See Group; with simulated ranks `deadline_s` is not waited for."""
        self._check_open()
        missing = self._missing()
        if missing:
            closed = [rank for rank in missing if rank in self._board.closed]
            why = f"; closed: {closed}" if closed else ""
            raise AgreementError(
                f"tick {self._pending[0]}: ranks {missing} have not issued it{why}"
                + issued_by_rank(self._board.num_issued.values())
            )
        tick = self._pending.popleft()
        there = self._board.ticks[tick]
        out: Lanes = np.minimum.reduce(list(there.values()))
        uncollected = self._board.uncollected
        uncollected[tick] = uncollected.get(tick, self.size) - 1
        if uncollected[tick] == 0:
            del self._board.ticks[tick], uncollected[tick]
        return out

    @one_caller
    def close(self) -> None:
        """See Group."""
        self._closed = True
        self._board.closed.add(self.rank)
