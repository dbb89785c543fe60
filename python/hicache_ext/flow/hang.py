"""Store calls that get no further: each rank watches its own, the ranks vote to give an op up."""

from __future__ import annotations

import math

from hicache_ext.flow.context import FlowContext
from hicache_ext.flow.op import Op

# In the first `short` lane while an op waits for I/O, whose largest of all ranks counts: the
# deadline has passed, or a store call gets no further.
LATE, HUNG = 1, 2


class Watch:
    """When the store calls of an op last got further, by the alarm's clock."""

    def __init__(self, op: Op, ctx: FlowContext) -> None:
        self._op, self._ctx = op, ctx
        self._moved_s = self._looks_s = -math.inf

    def moved(self) -> None:
        """A call began or got further. From any thread."""
        self._moved_s = self._ctx.alarm.clock()

    def hangs(self) -> bool:
        """Whether a call that is under way has not for long; the op is told when to look again."""
        alarm = self._ctx.alarm
        now_s = alarm.clock()
        left_s = self._moved_s + self._ctx.rules.hang_s - now_s
        if left_s > 0 and self._looks_s <= now_s:
            self._looks_s = alarm.after(self._op, left_s)
        return left_s <= 0
