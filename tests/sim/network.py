"""The group of the simulated ranks: a MIN whose result reaches each rank at a time of its own."""

from __future__ import annotations

import random
from collections.abc import Callable

from hicache_ext.agreement.local import LocalGroup
from hicache_ext.agreement.schema import _HEADER, Lanes
from hicache_ext.errors import AgreementError

from .clock import Clock, Delays

NUM_HEADER_LANES = len(_HEADER)  # that must be equal on all ranks


class Network:
    """Who has sent the lanes of which tick, and when the last of them reaches whom."""

    def __init__(self, clock: Clock, delays: list[Delays]) -> None:
        size = len(delays)
        self.clock = clock
        self.groups = [SimGroup(self, inner) for inner in LocalGroup.simulated(size)]
        self.wake: Callable[[int], None] = lambda rank: None  # somebody's lanes have arrived
        self._delays = delays
        self._num_sent: dict[int, int] = {}
        self._arrival_ms: dict[tuple[int, int], int] = {}

    def sent(self, tick: int) -> None:
        """The lanes of a rank are on their way to every other one."""
        clock = self.clock
        self._num_sent[tick] = self._num_sent.get(tick, 0) + 1
        for rank, delays in enumerate(self._delays):
            delay_ms = delays.draw()
            arrival_ms = max(self._arrival_ms.get((tick, rank), 0), clock.now_ms + delay_ms)
            self._arrival_ms[tick, rank] = arrival_ms
            if self._num_sent[tick] == len(self._delays):
                clock.after(arrival_ms - clock.now_ms, lambda rank=rank: self.wake(rank))

    def has_arrived(self, tick: int, rank: int) -> bool:
        return self.clock.now_ms >= self._arrival_ms.get((tick, rank), 0)


class SimGroup:
    """See Group. result() never waits: the world calls it when it is ready, or when the deadline
    has passed."""

    kind = "sim"

    def __init__(self, network: Network, inner: LocalGroup) -> None:
        self.rank, self.size = inner.rank, inner.size
        self._network, self._inner = network, inner
        self.num_issued = self._num_collected = 0
        self.garbage: random.Random | None = None  # spoils the next lanes

    @property
    def num_uncollected(self) -> int:
        return self.num_issued - self._num_collected

    def issue(self, lanes: Lanes) -> None:
        if self.garbage is not None:
            lanes = lanes.copy()
            lanes[self.garbage.randrange(NUM_HEADER_LANES)] ^= 1 << self.garbage.randrange(60)
            self.garbage = None
        self._inner.issue(lanes)
        self.num_issued += 1
        self._network.sent(self.num_issued)

    def ready(self) -> bool:
        if not self._inner.ready():
            return False
        return self._network.has_arrived(self._num_collected + 1, self.rank)

    def result(self, deadline_s: float) -> Lanes:
        if self._inner.ready() and not self.ready():
            raise AgreementError(f"the lanes of other ranks are later than {deadline_s} s")
        lanes = self._inner.result(deadline_s)
        self._num_collected += 1
        return lanes

    def forget(self) -> None:
        """A new process takes this rank's seat: it knows nothing of ticks that are under way."""
        while self._inner._pending:
            self._inner._pending.pop()
        self._num_collected = self.num_issued

    def note(self, text: str) -> None:
        """Nobody is told."""

    def close(self) -> None:
        self._inner.close()
        for rank in range(self.size):
            self._network.clock.after(1, lambda rank=rank: self._network.wake(rank))
