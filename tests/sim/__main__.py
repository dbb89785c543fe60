"""python -m sim --num N: many schedules on all cores; python -m sim SEED: one, with its trace.

A schedule that fails is printed with its seed, and replays alike on any machine.
"""

from __future__ import annotations

import sys
import time
from collections import Counter

import seed_runs

from .runs import run_many, run_seed


def replay(seed: int) -> int:
    _, wrong, trace = run_seed(seed, trace=True)
    print("\n".join(trace))
    print(f"\nseed {seed}: {wrong or 'nothing wrong'}")
    return int(wrong is not None)


def run_all(first: int, num: int) -> int:
    """Prints the seeds that fail as they are found, then what happened and how fast that was."""
    start = time.perf_counter()
    total: Counter[str] = Counter()
    num_failed = num_run = 0
    for outcomes, failed in run_many(first, num):
        seed_runs.show_failures(failed, num_failed, "sim")
        total += outcomes
        num_failed += len(failed)
        num_run += seed_runs.BATCH
        if num_run % 10_000 == 0 and num_run < num:
            print(f"{num_run} schedules, {num_failed} failed", flush=True)
    seconds = time.perf_counter() - start
    for what, times in sorted(total.items()):
        print(f"{times:9} {what}")
    rate = num / seconds
    print(f"{num} schedules, {num_failed} failed, {seconds:.0f} s, {rate:.0f} per second")
    return int(num_failed > 0)


if __name__ == "__main__":
    sys.exit(seed_runs.main("sim", __doc__, 10_000, replay, run_all))
