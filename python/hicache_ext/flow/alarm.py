"""Tells ops that a point in time has come, so that none of them has to look at a clock in a tick.

A clock is of one rank alone: what it says is only ever a vote in the tick.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from heapq import heappop, heappush

from hicache_ext.flow.op import Op


class Alarm:
    """The deadlines of one rank's ops."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.clock = clock
        self._due: list[tuple[float, int, Op]] = []  # a heap

    def after(self, op: Op, delay_s: float) -> float:
        """The time at which `op` will be told, by this rank's clock."""
        at_s = self.clock() + delay_s
        if at_s < math.inf:
            heappush(self._due, (at_s, op.op_id, op))
        return at_s

    def ring(self) -> None:
        """Once per tick."""
        while self._due and self._due[0][0] <= self.clock():
            heappop(self._due)[2].tell()
