"""Seeded random sequences of calls of the tree, on 1 to 4 ranks of both cores, against a plain
model.

A failing seed is printed; `make fuzz SEED=n` replays it.
"""

import pytest
from tree_fuzz import Fuzz
from tree_seeds import NUM_OPS, run_batch, run_many

NUM_BLOCKS, BLOCK = 8, 25  # as many sequences as the time of `make test` allows; the rest is long


@pytest.mark.parametrize("first", range(0, NUM_BLOCKS * BLOCK, BLOCK))
def test_tree_and_ledgers_against_the_model(first):
    assert run_batch(range(first, first + BLOCK)) == {}


@pytest.mark.long
@pytest.mark.parametrize("first", range(100_000, 120_000, 1000))
def test_tree_and_ledgers_against_the_model_for_long(first):
    assert {seed: wrong for failed in run_many(first, 1000) for seed, wrong in failed.items()} == {}


@pytest.mark.parametrize("seed", range(3))
def test_a_seed_replays_alike(seed):
    first, second = Fuzz(seed), Fuzz(seed)
    first.run(NUM_OPS)
    second.run(NUM_OPS)
    assert first.log == second.log and first.tree.digest == second.tree.digest
