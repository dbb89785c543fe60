"""One suite for all executors: the bytes of a NumPy oracle, and not one byte besides."""

from __future__ import annotations

import random
from collections.abc import Callable
from itertools import product

import numpy as np
import pytest
from copy_cases import Case, draw_case
from copy_executors import EXECUTORS, Executor, check_copy, skip_unless_here
from page_cases import KINDS
from pages import POISON

executors = pytest.mark.parametrize("executor", EXECUTORS, ids=lambda executor: executor.name)


@executors
@pytest.mark.parametrize("kinds", list(product(KINDS, KINDS)), ids=" -> ".join)
def test_every_pair_of_layouts(kinds: tuple[str, str], executor: Executor) -> None:
    skip_unless_here(executor)
    for seed in range(3):
        rng = random.Random(f"{kinds} {seed}")
        case = draw_case(rng, [kinds], align_bytes=executor.align_bytes)
        check_copy(case, executor, rng)


@executors
@pytest.mark.parametrize("seed", range(12))
def test_sets_of_several_parts(seed: int, executor: Executor) -> None:
    skip_unless_here(executor)
    rng = random.Random(seed)
    kinds = [(rng.choice(KINDS), rng.choice(KINDS)) for _ in range(rng.randint(2, 8))]
    check_copy(draw_case(rng, kinds, align_bytes=executor.align_bytes), executor, rng)


ODD_IDS = {
    "no page": lambda rng, src, dst: ([], []),
    "one page": lambda rng, src, dst: ([rng.randrange(src.num_pages)], [0]),
    "both ends": lambda rng, src, dst: (
        [0, src.num_pages - 1][: dst.num_pages],
        [dst.num_pages - 1, 0][: dst.num_pages],
    ),
    "one source": lambda rng, src, dst: (
        [src.num_pages - 1] * dst.num_pages,
        list(range(dst.num_pages)),
    ),
    "holes only": lambda rng, src, dst: ([-1, 0, -(2**31)], [0, -1, -1]),
}


@executors
@pytest.mark.parametrize("what", ODD_IDS)
def test_odd_lists_of_ids(what: str, executor: Executor) -> None:
    skip_unless_here(executor)
    for seed in range(6):
        rng = random.Random(f"{what} {seed}")
        kinds = [(rng.choice(KINDS), rng.choice(KINDS))]
        check_copy(draw_case(rng, kinds, ODD_IDS[what], executor.align_bytes), executor, rng)


def test_the_suite_sees_a_wrong_copy() -> None:
    """A byte too many, one too few and one that is wrong fail the check of every executor."""

    def wrong(change: Callable[[np.ndarray, int], None]) -> Executor:
        def run(case: Case, rng: random.Random) -> int:
            EXECUTORS[0].run(case, rng)
            at = int(np.flatnonzero(case.num_writes)[0])
            change(case.target_arena, at)
            return case.num_bytes

        return Executor("wrong", run)

    def write_before(arena: np.ndarray, at: int) -> None:
        arena[at - 1] ^= 1

    def change_one(arena: np.ndarray, at: int) -> None:
        arena[at] ^= 1

    def leave_out(arena: np.ndarray, at: int) -> None:
        arena[at] = POISON

    for change in (write_before, change_one, leave_out):
        rng = random.Random(1)
        case = draw_case(rng, [("layer_first", "page_unified")])
        with pytest.raises(AssertionError):
            check_copy(case, wrong(change), rng)
