"""A component that the tree has never heard of: a recurrent state, one page at a node's right end.

It is here to show that a new cache kind is hooks alone. Page 4; a match must end at a state.
"""

import random

import pytest
from tree_tools import DEVICE, HOST, tokens

from hicache_ext.errors import TreeError
from hicache_ext.tree import Component, Full, RadixTree, Swa
from hicache_ext.tree.components.base import VIEW_ANY, VIEW_DEVICE


class _StateGate:
    def __init__(self, idx):
        self._idx = idx

    def step(self, node):
        device, host = node.parts[self._idx].pages
        if device is not None:
            return VIEW_ANY | VIEW_DEVICE
        return VIEW_ANY if host is not None else 0


class States(Component):
    name = "state"
    rank = 5

    def gate(self):
        return _StateGate(self.idx)

    def reach(self, node):
        return node.num_pages

    def order(self, node):
        return node.parts[self.idx].used_at, node.end

    def cuts(self, ids):
        return [i for i in range(1, len(ids)) if ids[i - 1] >= 0]

    def value(self, ids):
        return [ids[-1]] if ids and ids[-1] >= 0 else None

    def divide(self, value, num_prefix_pages):
        return None, value

    def spread(self, value, num_pages):
        return [-1] * (num_pages - 1) + value

    def violations(self, node):
        values = node.parts[self.idx].pages
        return [f"{len(v)} states" for v in values if v is not None and len(v) != 1]


@pytest.fixture
def tree():
    made = RadixTree(4, (Full(), Swa(4), States()))
    yield made
    made.check_integrity()


def insert(tree, pages, full, states):
    ids = {"full": full, "swa": full, "state": states}
    return tree.insert(tokens(*pages), ids)


def test_a_match_ends_at_a_state(tree):
    end = insert(tree, (1, 2, 3, 4), range(4), [-1, 8, -1, 9]).node
    assert tree.path_pages(end, "state", DEVICE) == [-1, 8, -1, 9]
    assert tree.match_prefix(tokens(1, 2, 3, 4)).num_tokens == 16
    assert tree.match_prefix(tokens(1, 2, 3)).num_tokens == 8


def test_a_split_leaves_the_state_at_the_suffix(tree):
    end = insert(tree, (1, 2, 3), range(3), [-1, -1, 9]).node
    assert tree.match_prefix(tokens(1, 2)).num_tokens == 0
    assert tree.path_pages(end, "state", DEVICE) == [-1, -1, 9]


def test_full_takes_swa_and_states_and_swa_takes_states(tree):
    insert(tree, (1,), [0], [7])
    insert(tree, (1, 2), [0, 1], [7, 8])
    assert tree.evict(DEVICE, {"state": 1}).device == {"full": [], "swa": [], "state": [7]}
    insert(tree, (1,), [0], [7])
    tree.match_prefix(tokens(1, 2))
    assert tree.evict(DEVICE, {"swa": 1}).device == {"full": [], "swa": [0], "state": [7]}
    assert tree.evict(DEVICE, {"full": 1}).device["state"] == [8]


def test_backup_load_back_and_window(tree):
    end = insert(tree, (1, 2, 3), range(3), [-1, 8, 9]).node
    plan = tree.begin_backup(end)
    assert plan.num_pages == {"full": 3, "swa": 3, "state": 2}
    tree.match_prefix(tokens(1))
    tree.commit_backup(plan, {"full": [0, 1, 2], "swa": [0, 1, 2], "state": [5, 6]})
    assert tree.path_pages(end, "state", HOST) == [-1, 5, 6]
    tree.evict(DEVICE, {"full": 9})
    plan = tree.begin_load_back(end)
    assert plan.num_pages == {"full": 3, "swa": 1, "state": 1}
    tree.commit_load_back(plan, {"full": [0, 1, 2], "swa": [4], "state": [7]})
    assert tree.match_prefix(tokens(1, 2, 3)).device_node == end
    graft = tree.insert_host(0, tokens(5, 6), [8, 9]).node
    with tree.window("state", 0, graft, [1]) as txn:
        assert txn.commit().attached == [1]
    assert tree.path_pages(graft, "state", HOST) == [-1, 1]


def test_random_calls_keep_the_invariants():
    for seed in range(40):
        rng, tree, page = random.Random(seed), RadixTree(4, (Full(), Swa(6), States())), 0
        receipts = []
        for _ in range(60):
            prompt = [rng.randrange(2) for _ in range(rng.randint(1, 6))]
            full, page = range(page, page + len(prompt)), page + len(prompt)
            states = [i if rng.random() < 0.4 else -1 for i in full]
            end = insert(tree, prompt, full, states).node
            if rng.random() < 0.3:
                receipts.append(tree.lock(end, rng.choice((DEVICE, HOST))))
            if rng.random() < 0.5 and (plan := tree.begin_backup(end)):
                tree.match_prefix(tokens(*prompt[:-1]))
                counts = plan.num_pages.items()
                ids = {name: range(page, page + count) for name, count in counts}
                tree.commit_backup(plan, ids)
                page += max(plan.num_pages.values())
            tier, name = rng.choice((DEVICE, HOST)), rng.choice(("full", "swa", "state"))
            tree.evict(tier, {name: rng.randint(0, 4)})
            try:
                if plan := tree.begin_load_back(tree.match_prefix(tokens(*prompt)).node):
                    tree.abort_load_back(plan)
            except TreeError as error:
                raise AssertionError("a match can always be loaded back") from error
            tree.check_integrity()
            if receipts and rng.random() < 0.5:
                tree.unlock(receipts.pop())
                tree.check_integrity()
