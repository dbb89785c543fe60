"""python -m sim --num N: many schedules on all cores; python -m sim SEED: one, with its trace.

A schedule that fails is printed with its seed, and replays alike on any machine.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
import time
from collections import Counter
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor
from tempfile import TemporaryDirectory

from hicache_ext.agreement.dump import FOLDER_VARIABLE

from .schedule import make_schedule
from .world import World

BATCH = 50
NUM_TRACE_LINES = 400


def run_seed(seed: int, trace: bool = False) -> tuple[Counter[str], str | None, list[str]]:
    """What happened in the run, what was wrong with it, and its trace."""
    world = World(make_schedule(seed), trace)
    wrong = None
    log = logging.getLogger("hicache_ext")
    level = log.level
    log.setLevel(logging.ERROR)  # no warnings of stores that were told to fail
    try:
        world.run()
    except Exception as error:  # whatever it is, it is what we look for
        wrong = f"{type(error).__name__}: {error}"
    finally:
        log.setLevel(level)
    return world.outcomes, wrong, world.trace or []


def run_batch(seeds: Iterable[int]) -> tuple[Counter[str], dict[int, str]]:
    """The sum of what happened, and the seeds that failed."""
    total: Counter[str] = Counter()
    failed = {}
    for seed in seeds:
        outcomes, wrong, _ = run_seed(seed)
        total += outcomes
        if wrong:
            failed[seed] = wrong
    return total, failed


def first_failure(num: int) -> tuple[int, str] | None:
    """The first of `num` seeds that fails, and what is wrong with it."""
    for seed in range(num):
        if wrong := run_seed(seed)[1]:
            return seed, wrong
    return None


def run_many(first: int, num: int, num_workers: int | None = None) -> tuple[Counter, dict]:
    """As run_batch, on all cores."""
    batches = [range(i, min(i + BATCH, first + num)) for i in range(first, first + num, BATCH)]
    total: Counter[str] = Counter()
    failed: dict[int, str] = {}
    with ProcessPoolExecutor(num_workers or os.cpu_count()) as pool:
        for outcomes, wrong in pool.map(run_batch, batches):
            total += outcomes
            failed |= wrong
    return total, failed


def replay(seed: int) -> int:
    _, wrong, trace = run_seed(seed, trace=True)
    print("\n".join(trace))
    print(f"\nseed {seed}: {wrong or 'nothing wrong'}")
    return int(wrong is not None)


def main() -> int:
    parser = argparse.ArgumentParser(prog="sim", description=__doc__)
    parser.add_argument("seed", type=int, nargs="?", help="replay this schedule with its trace")
    parser.add_argument("--num", type=int, default=10_000, help="schedules to run")
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    args = parser.parse_args()
    with TemporaryDirectory() as folder:  # of the dumps of ranks that are meant to part
        os.environ[FOLDER_VARIABLE] = folder
        return replay(args.seed) if args.seed is not None else run_all(args.first, args.num)


def run_all(first: int, num: int) -> int:
    """Prints what happened, the seeds that failed, and how fast that was."""
    start = time.perf_counter()
    total, failed = run_many(first, num)
    seconds = time.perf_counter() - start
    for what, times in sorted(total.items()):
        print(f"{times:9} {what}")
    for seed, wrong in sorted(failed.items())[:10]:
        print(f"\nseed {seed} fails (python -m sim {seed} replays it): {wrong}")
    rate = num / seconds
    print(f"\n{num} schedules, {len(failed)} failed, {seconds:.0f} s, {rate:.0f} per second")
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main())
