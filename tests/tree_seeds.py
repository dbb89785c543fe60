"""python -m tree_seeds --num N: many sequences of the tree's fuzz on all cores; with a SEED: one.
A sequence that fails is printed with its seed, and replays alike.
"""

import sys
import time
import traceback

import seed_runs
from tree_fuzz import CORES, Fuzz

NUM_OPS = 200
MIXED_EVERY = 10  # the Python core takes several times as long


def fuzz_of(seed):
    """One in MIXED_EVERY has ranks of both cores, the others of the native one."""
    return Fuzz(seed, ("native",) if seed % MIXED_EVERY else CORES)


def run_seed(seed, cores=None):
    """What is wrong with the sequence, or None."""
    fuzz = Fuzz(seed, cores) if cores else fuzz_of(seed)
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
    """As run_batch, on all cores."""
    return seed_runs.on_all_cores(run_batch, first, num)


def first_failure(num, cores=("python",)):
    """The first of `num` seeds that fails, and what is wrong with it."""
    for seed in range(num):
        if wrong := run_seed(seed, cores):
            return seed, wrong
    return None


def first_native_failure(num):
    """Of the sequences that run_all() runs."""
    return first_failure(num, None)


def run_all(first, num):
    start = time.perf_counter()
    num_failed = 0
    for failed in run_many(first, num):
        seed_runs.show_failures(failed, num_failed, "fuzz")
        num_failed += len(failed)
    seconds = time.perf_counter() - start
    print(f"{num} sequences of {NUM_OPS} ops, {num_failed} failed, {seconds:.0f} s")
    return int(num_failed > 0)


def replay(seed):
    fuzz = fuzz_of(seed)
    try:
        fuzz.run(NUM_OPS)
    finally:
        ranks = [type(rank.tree).__name__ for rank in fuzz.ranks.trees]
        print(f"seed {seed}: {ranks} with {fuzz.kinds}, ops {fuzz.log}")
        print(fuzz.tree.show())
    return 0


if __name__ == "__main__":
    sys.exit(seed_runs.main("tree_seeds", __doc__, 2000, replay, run_all))
