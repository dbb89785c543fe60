"""Ranks of a group in shared memory that are stopped, continued and killed at random points."""

import random
import re
import signal
import time
import uuid

import pytest
from group_worker import ProcessRank
from shm_tools import segment
from waiting import LONG_S, PATIENCE_S, wait_for

from hicache_ext.errors import AgreementError

DEADLINE_S = 1.0
NUM_LANES = 37


class Round:
    """One group from its start to the death of a rank, or to its proper end."""

    def __init__(self, rng, num_ticks):
        self.rng, self.num_ticks = rng, num_ticks
        self.name = f"test-{uuid.uuid4().hex}"
        self.size = rng.choice([2, 2, 3, 4])
        self.victim = rng.randrange(self.size) if rng.random() < 0.7 else None
        is_early = rng.random() < 0.2  # while the ranks are meeting, maybe
        self.kills_early = is_early and self.victim is not None

    def run(self):
        """The ticks that every surviving rank has seen."""
        self.ranks = [ProcessRank() for _ in range(self.size)]
        try:
            # Who is killed early may never have been there: the others give up, and then fail.
            deadline_s = DEADLINE_S if self.kills_early else LONG_S
            for i, rank in enumerate(self.ranks):
                rank.start("make_shm", self.name, i, self.size, NUM_LANES, deadline_s)
            if self.kills_early:
                time.sleep(self.rng.random() * 3e-3)
                return self.die_early()
            for rank in self.ranks:
                rank.finish()
            for rank in self.ranks:
                rank.start("run_until_lost", self.num_ticks, DEADLINE_S)
            self.stop_and_continue()
            return self.end() if self.victim is None else self.die()
        finally:
            for rank in self.ranks:
                rank.kill()
            wait_for(lambda: not segment(self.name).exists())

    def stop_and_continue(self):
        for _ in range(self.rng.randrange(12)):
            rank = self.rng.choice(self.ranks)
            rank.signal(signal.SIGSTOP)
            outlasts = self.rng.random() < 0.02
            time.sleep(DEADLINE_S + 0.3 if outlasts else self.rng.random() * 0.01)
            rank.signal(signal.SIGCONT)
            time.sleep(self.rng.random() * 0.01)

    def survivors(self):
        return [rank for i, rank in enumerate(self.ranks) if i != self.victim]

    def kill_victim(self):
        self.ranks[self.victim].kill()
        return time.monotonic()

    def die_early(self):
        """Everyone fails, at once if the ranks had not met, else in the first tick."""
        start = self.kill_victim()
        for rank in self.survivors():
            try:
                rank.finish()
            except AgreementError:
                continue
            rank.start("run_until_lost", self.num_ticks, DEADLINE_S)
            _, wrong, _, error = rank.finish()
            assert wrong == 0 and re.search(rf"\b{self.victim} \(pid", error), error
        assert time.monotonic() - start < 2 * DEADLINE_S + PATIENCE_S
        return 0

    def die(self):
        start = self.kill_victim()
        outcomes = [rank.finish() for rank in self.survivors()]
        assert time.monotonic() - start < DEADLINE_S + PATIENCE_S
        for done, wrong, _, error in outcomes:
            assert wrong == 0
            lost = re.search(r"rank (\d+) \(pid \d+\) is dead after (\d+) ticks", error)
            # Before the signal reached it, the victim may have come to the end.
            assert (lost and int(lost[1]) == self.victim) or done == self.num_ticks, error
            assert not lost or int(lost[2]) == done, (done, error)
        counts = {done for done, *_ in outcomes}
        assert len(counts) == 1, counts  # every survivor has seen the same ticks
        return counts.pop()

    def end(self):
        for done, wrong, _, error in [rank.finish() for rank in self.ranks]:
            assert (done, wrong, error) == (self.num_ticks, 0, "")
        return self.num_ticks


def storm(seed, num_ticks):
    print(f"storm: seed {seed}, {num_ticks} ticks")
    rng = random.Random(seed)
    num_done = num_rounds = 0
    while num_done < num_ticks:
        num_done += Round(rng, rng.randrange(100, 6000)).run()
        num_rounds += 1
    print(f"storm: {num_done} ticks in {num_rounds} rounds")


def test_short_storm():
    storm(7, 3000)


@pytest.mark.long
@pytest.mark.timeout(1200)
def test_storm_of_100_000_ticks():
    storm(random.SystemRandom().randrange(1 << 32), 100_000)
