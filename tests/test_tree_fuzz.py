"""Seeded random sequences of calls of the tree, on 1 to 4 ranks of both cores, against a plain
model.

A failing seed is printed; `make fuzz SEED=n` replays it.
"""

import pytest
from tree_fuzz import Fuzz
from tree_seeds import NUM_OPS, run_many

BLOCK = 500


def failures(first):
    return {seed: wrong for failed in run_many(first, BLOCK) for seed, wrong in failed.items()}


@pytest.mark.parametrize("first", range(0, 2000, BLOCK))
def test_tree_and_ledgers_against_the_model(first):
    assert failures(first) == {}


@pytest.mark.long
@pytest.mark.parametrize("first", range(100_000, 300_000, BLOCK))
def test_tree_and_ledgers_against_the_model_for_long(first):
    assert failures(first) == {}


@pytest.mark.parametrize("seed", range(3))
def test_a_seed_replays_alike(seed):
    first, second = Fuzz(seed), Fuzz(seed)
    first.run(NUM_OPS)
    second.run(NUM_OPS)
    assert first.log == second.log and first.tree.digest == second.tree.digest
