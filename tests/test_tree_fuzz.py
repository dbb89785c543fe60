"""Seeded random test of the tree, with the pools' ledgers, against a plain model.

HICACHE_TREE_SEED=123 pytest tests/test_tree_fuzz.py replays one sequence;
HICACHE_TREE_OPS=n sets the number of ops.
"""

import os

import pytest
from tree_fuzz import Fuzz

from hicache_ext.errors import TreeError

NUM_OPS = int(os.environ.get("HICACHE_TREE_OPS", "100"))
SEED = os.environ.get("HICACHE_TREE_SEED")


BLOCK = 50


def run(seeds):
    for seed in seeds:
        fuzz = Fuzz(seed)
        try:
            fuzz.run(NUM_OPS)
        except Exception as error:
            where = f"HICACHE_TREE_SEED={seed}, op {len(fuzz.log)} ({fuzz.log[-1]})"
            raise TreeError(f"{where}: {error!r}\n{fuzz.tree.show()}") from error


@pytest.mark.parametrize("first", [int(SEED)] if SEED else range(0, 500, BLOCK))
def test_tree_and_ledgers_against_the_model(first):
    run(range(first, first + (1 if SEED else BLOCK)))


@pytest.mark.long
@pytest.mark.parametrize("first", range(1000, 21000, 200))
def test_tree_and_ledgers_against_the_model_for_long(first):
    run(range(first, first + 200))
