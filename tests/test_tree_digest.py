"""The digest of the tree: what it covers, what it costs, and that every process has the same."""

import os
import subprocess
import sys

import pytest
from tree_checks import compare
from tree_fuzz import Fuzz

from hicache_ext.keys import token_hash_py
from hicache_ext.tier import Tier
from hicache_ext.tree import Full, RadixTree, Swa
from hicache_ext.tree.node import path
from hicache_ext.tree.split import SplitUndo, split, unsplit

PAGE = 4


def prompt(first, num_pages):
    return list(range(first, first + num_pages * PAGE))


def grown(num_prompts, **kwargs):
    """Prompts of 8 pages: two shared with all, two with every tenth, the rest its own."""
    tree = RadixTree(PAGE, (Full(), Swa(2 * PAGE)), **kwargs)
    for i in range(num_prompts):
        tokens = prompt(0, 2) + prompt(1000 + i % 10 * 100, 2) + prompt(10_000 + i * 100, 4)
        pages = range(i * 8, i * 8 + 8)
        tree.insert(tokens, {"full": pages, "swa": [-1] * 4 + list(pages[4:])})
    return tree


def work(tree, call):
    """Nodes hashed for a digest after `call`, the one before it being up to date."""
    assert tree.digest == tree.digest
    before = tree._state.digest.num_hashed_nodes
    call(tree)
    assert tree.digest == tree.digest
    return tree._state.digest.num_hashed_nodes - before


ONE = prompt(0, 2) + prompt(1000, 2) + prompt(10_000, 4)
CALLS = {
    "nothing": (lambda t: None, 0),
    "match": (lambda t: t.match_prefix(ONE), 4),  # the path
    "match that splits": (lambda t: t.match_prefix(prompt(0, 1)), 2),
    "miss": (lambda t: t.match_prefix([9]), 0),  # the clock alone
    "lock": (lambda t: t.lock(t.match_prefix(ONE).node), 4),
    "insert": (lambda t: t.insert(prompt(77, 3), {"full": [9000, 9001, 9002]}), 1),
    "evict": (lambda t: t.evict(Tier.DEVICE, {"swa": 1}), 1),  # the victim, a leaf, is gone
}


@pytest.mark.parametrize("name", CALLS)
def test_a_digest_costs_what_has_changed_whatever_the_size_of_the_tree(name):
    call, most = CALLS[name]
    small, large = work(grown(30), call), work(grown(600), call)
    assert small == large <= most
    tree = grown(600)
    assert len(tree._state.nodes) > 600 and tree._state.digest.num_hashed_nodes == 0


def test_tokens_are_hashed_when_a_node_is_made_or_cut_not_when_it_is_used():
    hashed = []

    def counting(tokens):
        hashed.append(len(tokens) // 4)
        return token_hash_py(tokens)

    tree = RadixTree(PAGE, (Full(),), token_hash=counting)
    tree.insert(prompt(0, 100), {"full": range(100)})
    assert tree.digest and sorted(hashed) == [0, 0, 400, 400]  # root and prompt, for log and digest
    hashed.clear()
    receipt = tree.lock(1)
    assert tree.digest
    tree.unlock(receipt)
    assert tree.digest and hashed == []
    tree.match_prefix(prompt(0, 30))
    assert tree.digest and sorted(hashed) == [120, 120, 280]  # the call's log, the two pieces


def changes(node):
    """One change each of something that the digest covers, on a node and on the tree."""
    full, swa = node.parts

    def pages(part, tier, value):
        part.pages[tier] = value

    return {
        "id": lambda s: setattr(node, "id", 10**6),
        "parent": lambda s: setattr(node, "parent", s.roots[b""]),
        "depth": lambda s: setattr(node, "end", node.end + 1),
        "tokens": lambda s: setattr(node, "key", node.key[:-1] + b"\xff"),
        "full on the host": lambda s: pages(full, Tier.HOST, [1, 2, 3, 4]),
        "no full on the device": lambda s: pages(full, Tier.DEVICE, None),
        "no swa on the device": lambda s: pages(swa, Tier.DEVICE, None),
        "swa on the host": lambda s: pages(swa, Tier.HOST, [1, 2, 3, 4]),
        "lock": lambda s: full.locks.__setitem__(Tier.DEVICE, 1),
        "host lock of swa": lambda s: swa.locks.__setitem__(Tier.HOST, 1),
        "full used later": lambda s: setattr(full, "used_at", full.used_at + 1),
        "swa used later": lambda s: setattr(swa, "used_at", swa.used_at + 1),
        "clock": lambda s: setattr(s, "clock", s.clock + 1),
        "next node": lambda s: setattr(s, "next_id", s.next_id + 1),
        "next ticket": lambda s: setattr(s, "next_ticket", s.next_ticket + 1),
        "a receipt less": lambda s: s.receipts.popitem(),
        "a plan less": lambda s: s.plans.popitem(),
        "namespace": lambda s: setattr(s.roots[b""], "namespace", b"other"),
    }


def laden():
    tree = grown(3)
    tree.lock(tree.match_prefix(ONE).node)
    tree.begin_backup(tree.match_prefix(ONE).node)
    return tree


@pytest.mark.parametrize("name", changes(laden()._state.nodes[1]))
def test_every_covered_thing_changes_it(name):
    tree = laden()
    state = tree._state
    leaf = path(state.get(tree.match_prefix(ONE).node))[-1]
    before = tree.digest
    nodes = list(state.nodes.values())
    assert state.digest.recomputed(state, nodes) == before
    changes(leaf)[name](state)
    assert state.digest.recomputed(state, nodes) != before


def test_page_ids_do_not_change_it():
    trees = [RadixTree(PAGE, (Full(),)) for _ in range(2)]
    for i, tree in enumerate(trees):
        tree.insert(prompt(0, 3), {"full": [i, 10 + i, 5 - i]})
    assert trees[0].digest == trees[1].digest


def test_a_window_that_is_staged_and_rolled_back():
    """Asked between all steps, with nothing else that would mark the nodes."""
    tree = RadixTree(PAGE, (Full(), Swa(2 * PAGE)))
    node = tree.insert_host(tree.match_prefix([]).node, prompt(0, 6), range(6)).node
    before = tree.digest
    for pages in ([7, 8], range(6)):  # with a split and without
        with tree.window("swa", 0, node, pages) as txn:
            assert tree.digest == before
            txn.stage()
            assert tree.digest != before
            tree.check_integrity()
        assert tree.digest == before
        tree.check_integrity()


def test_a_split_that_is_undone():
    tree = grown(1)
    state, node = tree._state, tree._state.get(tree.match_prefix(ONE).node)
    before, saved = tree.digest, SplitUndo(node)
    split(state, node, 1)
    assert tree.digest != before
    unsplit(state, node, saved)
    assert tree.digest == before


class RarelyAsked(Fuzz):
    """Asks for the digest every 20th op only: by then nodes have changed often, or are gone."""

    def verify(self):
        compare(self.tree.page_rows(), self.model)
        if len(self.log) % 20 == 0:
            state = self.tree._state
            assert self.tree.digest == state.digest.recomputed(state, state.nodes.values())
            self.ranks.check()


@pytest.mark.parametrize("seed", range(30))
def test_fuzz_against_a_digest_from_scratch(seed):
    fuzz = RarelyAsked(seed)
    fuzz.run(200)
    assert fuzz.tree._state.digest.num_hashed_nodes > 0


SCRIPT = """
from test_tree_digest import laden
tree = laden()
print(tree.digest, tree._state.log.hash)
"""


def test_it_is_the_same_in_every_process():
    def run(seed):
        env = {**os.environ, "PYTHONHASHSEED": seed}
        paths = [p for p in sys.path if p]
        env["PYTHONPATH"] = os.pathsep.join(paths)
        done = subprocess.run(
            [sys.executable, "-c", SCRIPT], env=env, capture_output=True, text=True, check=True
        )
        return done.stdout

    tree = laden()
    assert run("1") == run("2") == f"{tree.digest} {tree._state.log.hash}\n"
