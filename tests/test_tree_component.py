"""A component that the tree has never heard of, to show that a new cache kind is one file of hooks.

Draft: pages of a draft model, for the last two pages before an end. They help, and nothing is lost
but speed without them, so they gate no match: another kind than any of the tree's own.
"""

import random

import pytest
from tree_tools import DEVICE, HOST, back_up, tokens

from hicache_ext.tree import Component, Full, RadixTree, Swa
from hicache_ext.tree.components.base import VIEW_ALL


class _OpenGate:
    def step(self, node):
        return VIEW_ALL


class Draft(Component):
    name = "draft"
    rank = 1

    def gate(self):
        return _OpenGate()

    def need(self, end):
        return 2

    def can_end(self, node):
        return True


@pytest.fixture
def tree():
    made = RadixTree(4, (Full(), Swa(4), Draft()))
    yield made
    made.check_integrity()


def insert(tree, pages, full, draft):
    full = list(full)
    return tree.insert(tokens(*pages), {"full": full, "swa": full, "draft": list(draft)})


def test_a_match_does_not_need_it(tree):
    end = insert(tree, (1, 2, 3), range(3), [-1, -1, 9]).node
    assert tree.match_prefix(tokens(1, 2, 3)).node == end
    assert tree.match_prefix(tokens(1, 2)).num_tokens == 8
    assert tree.path_pages(end, "draft", DEVICE) == [-1, -1, 9]


def test_a_lock_keeps_two_pages_of_it_and_its_eviction_takes_nothing_else(tree):
    end = insert(tree, (1,), [0], [5]).node
    insert(tree, (1, 2), range(2), [5, 6])
    end = insert(tree, (1, 2, 3), range(3), [5, 6, 7]).node
    receipt = tree.lock(end)
    assert tree.evict(DEVICE, {"draft": 9}).device == {"full": [], "swa": [], "draft": [5]}
    tree.unlock(receipt)
    # At a leaf of the device it goes with the leaf, like any other window.
    assert tree.evict(DEVICE, {"draft": 9}).device["draft"] == [6, 7]


def test_a_load_back_brings_what_the_host_has_of_it(tree):
    insert(tree, (1,), [0], [5])
    insert(tree, (1, 2), range(2), [-1, -1])
    end = insert(tree, (1, 2, 3), range(3), [-1, -1, 7]).node
    back_up(tree, end, 50)
    tree.evict(DEVICE, {"full": 9})
    plan = tree.begin_load_back(end)
    assert plan.num_pages == {"full": 3, "swa": 1, "draft": 1}
    tree.commit_load_back(plan, {"full": range(3), "swa": [2], "draft": [8]})
    assert tree.path_pages(end, "draft", DEVICE) == [-1, -1, 8]


def test_a_window_of_it_from_storage(tree):
    graft = tree.insert_host(tree.match_prefix([]).node, tokens(1, 2, 3), range(3)).node
    with tree.window("draft", 0, graft, [5, 6]) as txn:
        assert txn.commit().attached == [5, 6]
    assert tree.path_pages(graft, "draft", HOST) == [-1, 5, 6]


def test_random_calls_keep_the_invariants():
    for seed in range(20):
        rng, tree, page = random.Random(seed), RadixTree(4, (Full(), Swa(6), Draft())), 0
        receipts = []
        for _ in range(60):
            prompt = [rng.randrange(2) for _ in range(rng.randint(1, 6))]
            full, page = range(page, page + len(prompt)), page + len(prompt)
            draft = [i if rng.random() < 0.4 else -1 for i in full]
            end = insert(tree, prompt, full, draft).node
            if rng.random() < 0.3:
                receipts.append(tree.lock(end, rng.choice((DEVICE, HOST))))
            if rng.random() < 0.5 and (plan := tree.begin_backup(end)):
                tree.match_prefix(tokens(*prompt[:-1]))
                counts = plan.num_pages.items()
                tree.commit_backup(plan, {name: range(page, page + n) for name, n in counts})
                page += max(plan.num_pages.values())
            tier, name = rng.choice((DEVICE, HOST)), rng.choice(("full", "swa", "draft"))
            tree.evict(tier, {name: rng.randint(0, 4)})
            if plan := tree.begin_load_back(tree.match_prefix(tokens(*prompt)).node):
                tree.abort_load_back(plan)
            tree.check_integrity()
            if receipts and rng.random() < 0.5:
                tree.unlock(receipts.pop())
                tree.check_integrity()
