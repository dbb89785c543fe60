"""check_integrity(): each invariant is broken by hand, and that very one is named.

The tree has [ 1 2 ] ── [ 3 4 ] on the device, the first on the host as well, a lock and a plan.
"""

import pytest
from tree_tools import DEVICE, HOST, back_up, tokens

from hicache_ext.errors import TreeError
from hicache_ext.tree import Component, Full, Mamba, RadixTree, Swa
from hicache_ext.tree.components.base import VIEW_ANY, VIEW_DEVICE
from hicache_ext.tree.node import Node
from hicache_ext.tree.results import Receipt


def insert(tree, pages, full):
    states = [-1] * (len(pages) - 1) + [full[-1]]
    return tree.insert(tokens(*pages), {"full": full, "swa": full, "mamba": states})


@pytest.fixture
def laden():
    """(tree, its state, the upper node, the lower one)"""
    tree = RadixTree(4, (Full(), Swa(8), Mamba()))
    upper = insert(tree, (1, 2), [0, 1]).node
    back_up(tree, upper, 50)
    lower = insert(tree, (1, 2, 3, 4), [0, 1, 2, 3]).node
    tree.lock(upper)
    tree.begin_backup(lower)
    insert(tree, (9,), [9])
    tree.check_integrity()
    return tree, tree._state, tree._state.get(upper), tree._state.get(lower)


def move(part, tier, value):
    part.pages[tier] = value


def receipt_of(state, **changes):
    first = next(iter(state.receipts.values()))
    fields = {"id": first.id, "node": first.node, "tier": first.tier, "num_pages": first.num_pages}
    state.receipts[first.id] = Receipt(**{**fields, **changes})


def drop_a_pin(state):
    (plan,) = state.plans.values()
    del state.receipts[plan.receipts[0].id]


def leaf(state):
    """Of [ 9 ], which is a candidate of every queue."""
    return next(node for node in state.nodes.values() if node.end == 1)


def requeue(state, idx):
    queue = state.queues[idx][DEVICE]
    queue._heap.append(queue._heap[0])


BREAKS = {
    "I1 no base above": ("I1", lambda s, up, low: move(up.parts[0], DEVICE, None)),
    "I2 no base above": ("I2", lambda s, up, low: move(low.parts[0], HOST, [80, 81])
                         or move(up.parts[0], HOST, None)),
    "I3 no base at all": ("I3", lambda s, up, low: move(low.parts[0], DEVICE, None)),
    "I4 window alone": ("I4", lambda s, up, low: move(low.parts[1], HOST, [80, 81])),
    "I5 a lock too many": ("I5", lambda s, up, low: s.lock(up, 0, DEVICE)),
    "I5 a lock too few": ("I5", lambda s, up, low: s.unlock(up, 1, DEVICE)),
    "I5 negative": ("I5", lambda s, up, low: low.parts[2].locks.__setitem__(HOST, -1)),
    "I5 no lock of the base": ("I5", lambda s, up, low: s.lock(low, 1, HOST)),
    "I6 not queued": ("I6", lambda s, up, low: s.queues[0][DEVICE].forget(leaf(s))),
    "I6 queued twice": ("I6", lambda s, up, low: requeue(s, 0)),
    "I6 flag": ("I6", lambda s, up, low: leaf(s).parts[0].queued.__setitem__(DEVICE, False)),
    "I6 children": ("I6", lambda s, up, low: up.children_on.__setitem__(HOST, 1)),
    "I7 not queued": ("I7", lambda s, up, low: s.queues[1][DEVICE].forget(leaf(s))),
    "I7 queued twice": ("I7", lambda s, up, low: requeue(s, 2)),
    "I8 count": ("I8", lambda s, up, low: s.num_protected[1].__setitem__(HOST, 3)),
    "I9 pin": ("I9", lambda s, up, low: drop_a_pin(s)),
    "I9 node": ("I9", lambda s, up, low: s.nodes.pop(low.id)),
    "I10 short": ("I10", lambda s, up, low: move(low.parts[1], DEVICE, [102])),
    "I10 base": ("I10", lambda s, up, low: move(low.parts[0], DEVICE, [2, 3, 4])),
    "I11 two states": ("I11", lambda s, up, low: move(low.parts[2], DEVICE, [2, 3])),
    "I12 hashes": ("I12", lambda s, up, low: setattr(low, "hashes", b"x" * 32)),
    "I13 inside a node": ("I13", lambda s, up, low: receipt_of(s, num_pages=(1, 0, 0))),
    "I13 dead node": ("I13", lambda s, up, low: receipt_of(s, node=10**6)),
    "I15 ledger": ("I15", lambda s, up, low: s.owned[0][DEVICE].add(999)),
    "I15 twice": ("I15", lambda s, up, low: move(low.parts[0], DEVICE, [2, 2])),
    "I16 kept": ("I16", lambda s, up, low: setattr(s.digest, "_sum", s.digest._sum + 1)),
    "I16 not told": ("I16", lambda s, up, low: setattr(low.parts[0], "used_at", 10**6)),
    "index": ("index differ", lambda s, up, low: s.nodes.pop(up.id)),
    "stranger": ("index differ", lambda s, up, low: s.nodes.update({77: up})),
    "root": ("is no root", lambda s, up, low: setattr(up.parent, "namespace", b"x")),
    "alive": ("alive False", lambda s, up, low: setattr(low, "alive", False)),
    "next id": ("next id 0", lambda s, up, low: setattr(s, "next_id", 0)),
    "parent": ("found below", lambda s, up, low: setattr(low, "parent", up.parent)),
    "child key": ("another first page", lambda s, up, low: setattr(low, "key", b"\1" * 32)),
    "key length": ("key bytes", lambda s, up, low: setattr(low, "key", low.key + b"\0" * 4)),
    "hits": ("hits below", lambda s, up, low: setattr(low, "num_hits", 10**6)),
}  # fmt: skip


@pytest.mark.parametrize("name", BREAKS)
def test_a_broken_invariant_is_named(laden, name):
    tree, state, upper, lower = laden
    law, breakage = BREAKS[name]
    assert isinstance(upper, Node) and tree.digest
    breakage(state, upper, lower)
    with pytest.raises(TreeError) as caught:
        tree.check_integrity()
    assert (f"({law})" if law[1:].isdigit() else law) in str(caught.value)


class Liar(Component):
    """Ends a match wherever its test says."""

    name = "liar"
    rank = 1
    views = VIEW_DEVICE | VIEW_ANY

    def gate(self):
        return self

    def step(self, node):
        return self.views

    def need(self, end):
        return 1


def test_i14_a_gate_that_lets_a_match_end_where_it_must_not():
    component = Liar()
    tree = RadixTree(4, (Full(), component))
    end = tree.insert(tokens(1), {"full": [0], "liar": [-1]}).node
    with pytest.raises(TreeError, match=r"1 violations:\n.*liar ends .* holds nothing \(I14\)"):
        tree.check_integrity()
    component.views = 0
    tree.check_integrity()
    component.views = VIEW_DEVICE
    with pytest.raises(TreeError, match=r"1 violations:\n.*liar ends .* device alone \(I14\)"):
        tree.check_integrity()
    assert end == tree.match_prefix(tokens(1)).full_node


def test_i14_a_match_on_the_device_needs_base_pages_there(laden, monkeypatch):
    tree, state, _, lower = laden
    monkeypatch.setattr(Full, "gate", lambda self: Liar())
    lower.parts[0].pages[DEVICE] = None
    with pytest.raises(TreeError, match=r"without base pages \(I14\)"):
        tree.check_integrity()
    assert state.txn is None


def test_i2_holds_on_the_host_alone_and_i1_on_the_device_alone(laden):
    tree, _, upper, _ = laden
    upper.parts[0].pages[DEVICE] = None
    with pytest.raises(TreeError) as caught:
        tree.check_integrity()
    assert "(I1)" in str(caught.value) and "(I2)" not in str(caught.value)


def test_all_violations_at_once(laden):
    tree, state, upper, lower = laden
    for name in ("I15 ledger", "I12 hashes", "I8 count", "I6 children"):
        BREAKS[name][1](state, upper, lower)
    with pytest.raises(TreeError) as caught:
        tree.check_integrity()
    text = str(caught.value)
    assert text.startswith("4 violations:\n") and text.count("\n") == 4
    assert all(f"({law})" in text for law in ("I15", "I12", "I8", "I6"))


def test_a_staged_window_has_told_no_queue_and_is_no_violation(laden):
    tree, state, *_ = laden
    graft = tree.insert_host(state.roots[b""].id, tokens(5, 6, 7), [90, 91, 92]).node
    with tree.window("swa", state.roots[b""].id, graft, [93, 94]) as txn:
        txn.stage()
        tree.check_integrity()
    tree.check_integrity()
