"""Builds what a schedule describes, and runs it event by event to its end."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import fields

from .checks import Asked, Journal, Oracle
from .clock import Clock, Delays
from .network import Network
from .schedule import Fate, Schedule
from .seat import Seat


class World:
    """One run of one schedule."""

    def __init__(self, schedule: Schedule, trace: bool = False) -> None:
        size = schedule.num_ranks
        self.schedule = schedule
        self.clock = Clock()
        self.journal = Journal(size)
        self.outcomes: Counter[str] = Counter()
        self.trace: list[str] | None = None
        if trace:
            self.trace = [
                f"{field.name} = {getattr(schedule, field.name)}" for field in fields(schedule)
            ]
        self.asked: dict[int, Asked] = {}
        self.fate_ms: int | None = None  # when it befell its rank
        net_delays = [Delays(random.Random(s + 1), schedule.net_ms) for s in schedule.rank_seeds]
        self.network = Network(self.clock, net_delays)
        self.network.wake = lambda rank: self.seats[rank].wake()
        self.seats = [Seat(self, rank) for rank in range(size)]
        windows = self.seats[0].rank.cache._windows
        self.oracle = Oracle([seat.rank for seat in self.seats], windows.get("swa"))
        if schedule.fate != Fate.NONE:
            self.clock.after(schedule.fate_ms, self._befall)

    def note(self, rank: int, text: str) -> None:
        """A line of the trace; costs nothing where nobody reads it."""
        if self.trace is not None:
            self.trace.append(f"{self.clock.now_ms:6} ms  rank {rank}  {text}")

    def run(self) -> None:
        """To the end; Violation, or whatever the cache raised, if anything is wrong."""
        for seat in self.seats:
            self.clock.after(0, seat.resume)
        while self.clock.run_next():
            pass
        for seat in self.seats:
            seat.check_end()
        self.outcomes["prefetches checked"] += self.oracle.num_checked
        self.outcomes["ticks of a rank"] += sum(seat.group.num_issued for seat in self.seats)

    def _befall(self) -> None:
        seat = self.seats[self.schedule.fate_rank]
        if seat.is_over or not seat.group.num_issued:
            return
        self.fate_ms = self.clock.now_ms
        self.outcomes[self.schedule.fate.value] += 1
        self.note(seat.rank.rank, f"-- {self.schedule.fate.value} --")
        seat.suffer(self.schedule.fate)
