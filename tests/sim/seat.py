"""A rank as the world sees it: when it runs, what it saw, what befell it, how it ended.

A rank is a generator (Serving.run) that pauses for some virtual time or waits for the others. It is
resumed when its time has come, when the lanes of all ranks have reached it, or when the deadline
has passed: then its tick must raise.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING

from hicache_ext.errors import AgreementError
from hicache_ext.flow.record import PrefetchRecord, Record

from .checks import Asked, Violation, describe
from .clock import MAX_SCALE
from .rank import SimRank, keys_of
from .schedule import Fate, Prompt
from .serving import WAIT, Serving

if TYPE_CHECKING:
    from .world import World

SILENT = (Fate.DIES, Fate.LEAVES, Fate.STALLS)
"""Fates of which the others know by waiting in vain: they must say for whom."""

PICTURE_TICKS = 4
"""From one picture of the tree to the next: it costs as much as the rest of a tick."""


class Seat:
    """Runs one rank; it is the Observer of its calls."""

    def __init__(self, world: World, rank: int) -> None:
        self._world = world
        self.group = world.network.groups[rank]
        self._sit(rank)

    def _sit(self, rank: int) -> None:
        world = self._world
        self.rank = SimRank(world.schedule, world.clock, self.group)
        self.serving = Serving(world.schedule, self.rank, self)
        self.is_over = False  # at the end of its script, failed or dead
        self.is_dead = False
        self._is_reborn = False
        self.error: AgreementError | None = None
        self._life: Iterator[int] = self.serving.run()
        self._wait_serial = 0
        self._waits = False
        self._stall_ms = 0
        self._checked: tuple[int, ...] = ()
        self._picture = ""

    # -- its life ------------------------------------------------------------------------------

    def resume(self) -> None:
        """Runs the rank until it pauses, waits or ends."""
        if self.is_over:
            return
        world, rng = self._world, self.rank.rng
        self._waits = False
        if rng.random() < world.schedule.trouble_rate and not self.serving.is_quiet:
            world.note(self.rank.rank, f"store: {self.rank.store.trouble()}")
        if rng.random() < world.schedule.abort_rate and (op_id := self.serving.abort()):
            world.note(self.rank.rank, f"abort of op {op_id}")
        try:
            pause_ms = next(self._life, None)
        except AgreementError as error:
            self._fail(error)
            return
        if pause_ms is None:
            self.is_over = True
        elif pause_ms == WAIT:
            self._wait()
        else:
            if self._stall_ms:  # begins now
                world.fate_ms = world.clock.now_ms
            pause_ms, self._stall_ms = pause_ms + self._stall_ms, 0
            world.clock.after(pause_ms, self.resume)

    def _wait(self) -> None:
        self._waits = True
        self._wait_serial += 1
        serial = self._wait_serial

        def expire() -> None:
            if self._waits and serial == self._wait_serial:
                self.resume()

        self._world.clock.after(self._world.schedule.deadline_ms, expire)
        self.wake()

    def wake(self) -> None:
        """Goes on if the lanes that it waits for are there: those of `tick_depth` ticks ago."""
        if self._waits and not self.is_over:
            depth = self._world.schedule.tick_depth
            if self.group.num_uncollected <= depth or self.group.ready():
                self.resume()

    def _fail(self, error: AgreementError) -> None:
        """The ranks no longer agree: right if one of them has met its fate, and soon after it."""
        world, now_ms = self._world, self._world.clock.now_ms
        world.note(self.rank.rank, f"AgreementError: {str(error).splitlines()[0]}")
        if world.fate_ms is None:
            raise Violation(f"at {now_ms} ms, with all ranks well: {error}")
        if now_ms > world.fate_ms + self._max_wait_ms():
            raise Violation(f"fate at {world.fate_ms} ms, heard of at {now_ms} ms: {error}")
        names_it = re.search(rf"\b{world.schedule.fate_rank}\b", str(error))
        if world.schedule.fate in SILENT and not self._is_fated and not names_it:
            raise Violation(f"not told that rank {world.schedule.fate_rank} is missing: {error}")
        self.error, self.is_over = error, True
        self.serving.give_up()
        self.rank.cache.check_integrity()
        if self.rank.rng.random() < 0.5:
            self.group.close()

    def _max_wait_ms(self) -> int:
        """From a fate to the error: the deadline, after the ticks that a rank can still make: the
        one it is in, one that is complete, one for the depth, and the one that waits in vain.

        A rank that has stalled goes on after twice the deadline and then misses the others.
        """
        schedule = self._world.schedule
        slack_ms = (3 + schedule.tick_depth) * (max(schedule.tick_ms) + MAX_SCALE * schedule.net_ms)
        return schedule.deadline_ms * (3 if self._is_fated else 1) + slack_ms

    @property
    def _is_fated(self) -> bool:
        return self.rank.rank == self._world.schedule.fate_rank

    def suffer(self, fate: Fate) -> None:
        """What the schedule has in store for this rank."""
        if fate == Fate.STALLS:
            self._stall_ms = 2 * self._world.schedule.deadline_ms
        elif fate == Fate.GARBAGE:
            self.group.garbage = self.rank.rng
        elif fate == Fate.LEAVES:
            self.serving.give_up()
            self.group.close()
            self.is_over = True
        elif fate == Fate.DIES:
            self.is_over = self.is_dead = True
        elif fate == Fate.RESTARTS:
            self.group.forget()
            self._sit(self.rank.rank)
            self._is_reborn = True
            self.resume()

    # -- what it sees --------------------------------------------------------------------------

    def say(self, text: str) -> None:
        """See Observer."""
        self._world.note(self.rank.rank, text)
        if not self._is_reborn:
            self._world.journal.say(self.rank.rank, text)

    def asked(self, op_id: int, prompt: Prompt) -> None:
        """See Observer."""
        asked = self._world.asked.setdefault(op_id, Asked(keys_of(prompt)))
        asked.log_starts[self.rank.rank] = len(self.rank.store.log)

    def applied(self, records: list[Record]) -> None:
        """See Observer. The checks of every tick."""
        cache = self.rank.cache
        self.rank.check_io()
        state = self.rank.fingerprint()
        if state != self._checked:  # nothing to check anew in a tick that changed nothing
            cache.check_integrity()
            self._checked, self._picture = state, ""
        ended = ", ".join(map(describe, records)) or "nothing"
        free = [pool.num_free for pool in self.rank.device.values()]
        self.say(
            f"tick {self.group.num_issued} ends {ended}; {cache.num_in_flight} in flight, "
            f"device pages free {free}, digest {cache.tree.digest:x}"
        )
        self._say_tree()
        for record in records:
            assert record.outcome is not None
            kind = type(record).__name__.removesuffix("Record").lower()
            self._world.outcomes[f"{kind} {record.outcome.value}"] += 1
            if isinstance(record, PrefetchRecord):
                self._check_prefetch(record)

    def _say_tree(self) -> None:
        """All ranks show the same tree; in between, its digest says so.

        The trace has it once, when it has changed.
        """
        journal = self._world.journal
        if self._is_reborn or self.group.num_issued % PICTURE_TICKS:
            return
        self._picture = self._picture or self.rank.cache.tree.show()
        if journal.say(self.rank.rank, self._picture) and self._picture != journal.picture:
            journal.picture = self._picture
            self._world.note(self.rank.rank, self._picture)

    def _check_prefetch(self, record: PrefetchRecord) -> None:
        asked = self._world.asked[record.op_id]
        if self._world.fate_ms is None:
            self._world.oracle.check(record, asked)

    def check_end(self) -> None:
        """It has come to its end, and nothing is left behind."""
        if self.is_dead:
            return
        if not self.is_over:
            raise Violation(f"rank {self.rank.rank} hangs")
        if self.error is None and not self.serving.held:
            for prompt in self._world.schedule.prompts:
                self.rank.check_prompt(prompt)
        self.rank.check_empty()
        self.rank.cache.close()
