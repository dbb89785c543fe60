"""Seeded random test of the tree, with the pools' ledgers, against a plain model.

HICACHE_TREE_SEED=123 pytest tests/test_tree_fuzz.py replays one sequence;
HICACHE_TREE_OPS=n sets the number of ops.
"""

import os

import pytest
from tree_fuzz import Fuzz

NUM_OPS = int(os.environ.get("HICACHE_TREE_OPS", "100"))
SEED = os.environ.get("HICACHE_TREE_SEED")


def run(seeds):
    for seed in seeds:
        fuzz = Fuzz(seed)
        try:
            fuzz.run(NUM_OPS)
        except Exception as error:
            picture = fuzz.tree.show()
            replay = f"HICACHE_TREE_SEED={seed} fails at op {len(fuzz.log)} ({fuzz.log[-1]})"
            pytest.fail(f"{replay}: {type(error).__name__}: {error}\n{picture}")


@pytest.mark.parametrize("block", range(10 if SEED is None else 0))
def test_tree_and_ledgers_against_the_model(block):
    run(range(block * 50, block * 50 + 50))


@pytest.mark.skipif(SEED is None, reason="no HICACHE_TREE_SEED given")
def test_replay_one_seed():
    fuzz = Fuzz(int(SEED))
    fuzz.run(NUM_OPS)


@pytest.mark.long
@pytest.mark.parametrize("block", range(100))
def test_tree_and_ledgers_against_the_model_for_long(block):
    run(range(1000 + block * 100, 1100 + block * 100))
