"""A few hundred schedules of the deterministic simulation; `make sim` runs 10 000.

A failing seed is printed; `make sim SEED=n` replays it with its trace.
"""

from __future__ import annotations

from collections import Counter

import pytest
from sim.clock import Clock
from sim.runs import run_batch, run_many, run_seed
from sim.schedule import Fate

# The simulation must go where the trouble is, or it proves nothing.
EXPECTED = [
    *(f"prefetch {how}" for how in ("committed", "miss", "capacity", "aborted", "dropped")),
    *(f"backup {how}" for how in ("committed", "capacity", "failed")),
    *(f"loadback {how}" for how in ("committed", "capacity")),
    *(f"store {how}" for how in ("committed", "failed")),
    *(fate.value for fate in Fate if fate != Fate.NONE),
]


def test_a_few_hundred_schedules() -> None:
    total, failed = run_batch(range(300))
    assert failed == {}
    assert total["prefetches checked"] > 200
    assert [what for what in EXPECTED if not total[what]] == []


@pytest.mark.long
def test_thousands_of_schedules() -> None:
    total: Counter[str] = Counter()
    for outcomes, failed in run_many(300, 5000):
        assert failed == {}
        total += outcomes
    assert [what for what in [*EXPECTED, "loadback failed"] if total[what] < 20] == []


@pytest.mark.parametrize("seed", range(12))
def test_a_seed_replays_alike(seed: int) -> None:
    first, second = run_seed(seed, trace=True), run_seed(seed, trace=True)
    assert first == second
    trace = first[2]
    assert len(trace) > 20 and any("in flight, device pages free" in line for line in trace)


def test_events_of_one_time_happen_in_the_order_in_which_they_were_set() -> None:
    clock, seen = Clock(), []
    for delay_ms, name in ((5, "b"), (1, "a"), (5, "c")):
        clock.after(delay_ms, lambda name=name: seen.append((clock.now_ms, name)))
    while clock.run_next():
        pass
    assert seen == [(1, "a"), (5, "b"), (5, "c")]
