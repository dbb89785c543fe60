"""The command line of a search over seeds: many on all cores, or one again with its trace."""

from __future__ import annotations

import argparse
import gc
import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from typing import TypeVar

T = TypeVar("T")

BATCH = 50
NUM_SHOWN = 10
"""Failures; a bug that is found once is found a thousand times."""


def on_all_cores(run_batch: Callable[[Iterable[int]], T], first: int, num: int) -> Iterator[T]:
    """A result of `run_batch` for every BATCH seeds, in order; `run_batch` is of a module."""
    batches = [range(i, min(i + BATCH, first + num)) for i in range(first, first + num, BATCH)]
    with ProcessPoolExecutor(os.cpu_count(), initializer=gc.freeze) as pool:
        yield from pool.map(partial(_run_batch, run_batch), batches)


def _run_batch(run_batch: Callable[[Iterable[int]], T], seeds: Iterable[int]) -> T:
    """Collects garbage once, at its end: that is a seventh of the time otherwise."""
    gc.disable()
    try:
        return run_batch(seeds)
    finally:
        gc.enable()
        gc.collect()


def show_failures(failed: dict[int, str], num_before: int, target: str) -> None:
    """What is wrong by seed, and how `make` replays it; no more than NUM_SHOWN in all."""
    for seed, wrong in list(failed.items())[: max(0, NUM_SHOWN - num_before)]:
        print(f"seed {seed} fails (make {target} SEED={seed} replays it): {wrong}\n", flush=True)


def main(
    prog: str,
    description: str | None,
    default_num: int,
    replay: Callable[[int], int],
    run_all: Callable[[int, int], int],
) -> int:
    """Calls replay(seed) or run_all(first, num), as the arguments say; returns the exit status."""
    parser = argparse.ArgumentParser(prog=prog, description=description)
    parser.add_argument("seed", type=int, nargs="?", help="replay this one")
    parser.add_argument("--num", type=int, default=default_num, help="how many to run")
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    args = parser.parse_args()
    return replay(args.seed) if args.seed is not None else run_all(args.first, args.num)
