"""python -m sim --num N: many schedules on all cores; python -m sim SEED: one, with its trace.

A schedule that fails is printed with its seed, and replays alike on any machine.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter

from .runs import BATCH, run_many, run_seed

NUM_SHOWN = 10
"""Failures; a bug that is found once is found a thousand times."""


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
        for seed, wrong in list(failed.items())[: max(0, NUM_SHOWN - num_failed)]:
            print(f"seed {seed} fails (make sim SEED={seed} replays it): {wrong}\n", flush=True)
        total += outcomes
        num_failed += len(failed)
        num_run += BATCH
        if num_run % 10_000 == 0 and num_run < num:
            print(f"{num_run} schedules, {num_failed} failed", flush=True)
    seconds = time.perf_counter() - start
    for what, times in sorted(total.items()):
        print(f"{times:9} {what}")
    rate = num / seconds
    print(f"{num} schedules, {num_failed} failed, {seconds:.0f} s, {rate:.0f} per second")
    return int(num_failed > 0)


def main() -> int:
    parser = argparse.ArgumentParser(prog="sim", description=__doc__)
    parser.add_argument("seed", type=int, nargs="?", help="replay this schedule with its trace")
    parser.add_argument("--num", type=int, default=10_000, help="schedules to run")
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    args = parser.parse_args()
    return replay(args.seed) if args.seed is not None else run_all(args.first, args.num)


if __name__ == "__main__":
    sys.exit(main())
