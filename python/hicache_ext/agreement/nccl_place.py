"""Where the ticks of an NcclGroup run, and by which of NCCL's collectives they go faster there."""

import enum
import statistics
import time
from collections.abc import Sequence

import numpy as np

from hicache_ext import _C
from hicache_ext.agreement.deadline import Countdown
from hicache_ext.agreement.schema import NOT_MINE, AgreedSlot, TickSchema
from hicache_ext.errors import AgreementError

_NUM_WARM, _NUM_TIMED = 5, 25  # ticks of a trial, of each kind


class Reduction(enum.Enum):
    """How the ranks of an NcclGroup take the minimum."""

    ALL_REDUCE = 0
    """ncclAllReduce."""
    ALL_GATHER = 1
    """ncclAllGather; the kernel that unpacks takes the minimum of all ranks' lanes."""
    AUTO = 2
    """What is faster in a trial at the start; ALL_REDUCE for a single rank."""


_NATIVE = {
    Reduction.ALL_REDUCE: _C.NcclReduction.ALL_REDUCE,
    Reduction.ALL_GATHER: _C.NcclReduction.ALL_GATHER,
}


class Place:
    """A communicator on a stream of a device, on which groups and trials are made."""

    def __init__(self, library: _C.NcclLibrary, comm: int, device: int, stream: int) -> None:
        self._library, self._on = library, (comm, device, stream)

    def make(self, schema: TickSchema, reduction: Reduction) -> _C.NcclGroup:
        return _C.NcclGroup(self._library, schema.native, *self._on, _NATIVE[reduction])

    def gather(self, row: Sequence[int], clock: Countdown) -> list[list[int]]:
        """What every rank says, by rank: as many int64 each."""
        exchange = _C.NcclExchange(self._library, *self._on, row)
        if not exchange.wait(clock.left_s):
            raise AgreementError(
                f"its start: one or more of the other ranks are late after {clock.deadline_s} s"
            )
        return exchange.rows()

    def warm(self, schema: TickSchema, reduction: Reduction, clock: Countdown) -> None:
        """A tick in which NCCL connects the ranks: the first real one, or a capture, must not."""
        self._time(schema, [reduction], clock, num_warm=0, num_timed=1)

    def choose(self, schema: TickSchema, size: int, clock: Countdown) -> tuple[Reduction, str]:
        """The reduction whose median tick is shorter on the rank where it is longest, and why.

        All ranks compare the same numbers, so all choose the same.
        """
        if size == 1:
            return Reduction.ALL_REDUCE, "there is one rank"
        ways = (Reduction.ALL_REDUCE, Reduction.ALL_GATHER)
        times_ns = self._time(schema, ways, clock, num_warm=_NUM_WARM, num_timed=_NUM_TIMED)
        rows = self.gather(times_ns, clock)
        slowest = [max(column) for column in zip(*rows, strict=True)]
        chosen = ways[slowest.index(min(slowest))]
        named = zip(ways, slowest, strict=True)
        times = ", ".join(f"{way.name} {ns / 1000:.1f} us" for way, ns in named)
        return chosen, f"median tick of the slowest rank: {times}"

    def _time(
        self,
        schema: TickSchema,
        ways: Sequence[Reduction],
        clock: Countdown,
        *,
        num_warm: int,
        num_timed: int,
    ) -> list[int]:
        """Nanoseconds of a median tick from issue to outcome, for each way; by turns."""
        trials = [(self.make(schema, way), list[int]()) for way in ways]
        lanes = np.full(schema.num_lanes, NOT_MINE)
        for tick in range(num_warm + num_timed):
            for group, times in trials:
                start = time.perf_counter_ns()
                group.issue(lanes)
                # wait() sleeps, after a while, for longer than the difference may be.
                while not group.ready():
                    time.sleep(0)  # other threads want the GIL
                    if clock.left_s == 0:
                        raise AgreementError(
                            f"rank {group.rank} of {group.size}: its trial is not done after "
                            f"{clock.deadline_s} s"
                        )
                group.wait(0.0)  # raises what is wrong
                group.collect(AgreedSlot)
                if tick >= num_warm:
                    times.append(time.perf_counter_ns() - start)
        return [int(statistics.median(times)) for _, times in trials]
