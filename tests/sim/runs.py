"""Runs schedules: one with its trace, some in this process, many on all cores."""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Iterable, Iterator
from unittest.mock import patch

import seed_runs

from hicache_ext.agreement.dump import FOLDER_VARIABLE
from hicache_ext.flow.full_check import VARIABLE as CHECK_VARIABLE

from .schedule import make_schedule
from .world import World

Failed = dict[int, str]  # by seed, what was wrong


def run_seed(seed: int, trace: bool = False) -> tuple[Counter[str], str | None, list[str]]:
    """What happened in the run, what was wrong with it, and its trace."""
    wrong = None
    log = logging.getLogger("hicache_ext")
    level = log.level
    log.setLevel(logging.ERROR)  # no warnings of stores that were told to fail
    schedule = make_schedule(seed)
    # Ranks that are meant to part leave no dumps behind: the trace has more.
    with patch.dict(os.environ, {FOLDER_VARIABLE: os.devnull, CHECK_VARIABLE: schedule.check}):
        world = World(schedule, trace)
        try:
            world.run()
        except Exception as error:  # whatever it is, it is what we look for
            wrong = f"{type(error).__name__}: {error}"
    log.setLevel(level)
    return world.outcomes, wrong, world.trace or []


def run_batch(seeds: Iterable[int]) -> tuple[Counter[str], Failed]:
    """The sum of what happened, and the seeds that failed."""
    total: Counter[str] = Counter()
    failed = {}
    for seed in seeds:
        outcomes, wrong, _ = run_seed(seed)
        total += outcomes
        if wrong:
            failed[seed] = wrong
    return total, failed


def run_many(first: int, num: int) -> Iterator[tuple[Counter[str], Failed]]:
    """As run_batch, on all cores: a result for every batch of schedules."""
    return seed_runs.on_all_cores(run_batch, first, num)


def first_failure(num: int) -> tuple[int, str] | None:
    """The first of `num` seeds that fails, and what is wrong with it."""
    for seed in range(num):
        if wrong := run_seed(seed)[1]:
            return seed, wrong
    return None
