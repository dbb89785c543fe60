"""python -m tree_seeds --num N: many sequences of the tree's fuzz on all cores; with a SEED: one.
A sequence that fails is printed with its seed, and replays alike.
"""

import argparse
import os
import sys
import time
import traceback
from concurrent.futures import ProcessPoolExecutor

from tree_fuzz import CORES, Fuzz

NUM_OPS = 200
BATCH = 50
NUM_SHOWN = 10


def run_seed(seed, cores=CORES):
    """What is wrong with the sequence, or None."""
    fuzz = Fuzz(seed, cores)
    try:
        fuzz.run(NUM_OPS)
    except Exception as error:  # whatever it is, it is what we look for
        where = traceback.extract_tb(error.__traceback__)[-1]
        what = f"{type(error).__name__}: {error}"
        ops = f"op {len(fuzz.log)} ({fuzz.log[-1]})" if fuzz.log else "no op"
        return f"{ops}: {what}\n{where.name}: {where.line}"
    return None


def run_batch(seeds):
    """The seeds that fail, with what is wrong."""
    return {seed: wrong for seed in seeds if (wrong := run_seed(seed))}


def run_many(first, num):
    """As run_batch, on all cores: yields how many were run, and those that failed."""
    batches = [range(i, min(i + BATCH, first + num)) for i in range(first, first + num, BATCH)]
    with ProcessPoolExecutor(os.cpu_count()) as pool:
        for seeds, failed in zip(batches, pool.map(run_batch, batches), strict=True):
            yield len(seeds), failed


def first_failure(num):
    """The first of `num` seeds that fails with the Python core, and what is wrong with it."""
    for seed in range(num):
        if wrong := run_seed(seed, ("python",)):
            return seed, wrong
    return None


def run_all(first, num):
    start = time.perf_counter()
    num_failed = 0
    for _, failed in run_many(first, num):
        for seed, wrong in list(failed.items())[: max(0, NUM_SHOWN - num_failed)]:
            print(f"seed {seed} fails (make fuzz SEED={seed} replays it): {wrong}\n", flush=True)
        num_failed += len(failed)
    seconds = time.perf_counter() - start
    print(f"{num} sequences of {NUM_OPS} ops, {num_failed} failed, {seconds:.0f} s")
    return int(num_failed > 0)


def replay(seed):
    fuzz = Fuzz(seed)
    try:
        fuzz.run(NUM_OPS)
    finally:
        ranks = [type(rank.tree).__name__ for rank in fuzz.ranks.trees]
        print(f"seed {seed}: {ranks} with {fuzz.kinds}, ops {fuzz.log}")
        print(fuzz.tree.show())
    return 0


def main():
    parser = argparse.ArgumentParser(prog="tree_seeds", description=__doc__)
    parser.add_argument("seed", type=int, nargs="?", help="replay this sequence")
    parser.add_argument("--num", type=int, default=2000, help="sequences to run")
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    args = parser.parse_args()
    return replay(args.seed) if args.seed is not None else run_all(args.first, args.num)


if __name__ == "__main__":
    sys.exit(main())
