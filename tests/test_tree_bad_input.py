"""Bad input to the tree: a TreeError with the values, and nothing has changed.

More of it in test_tree_errors.py, which has the arguments of each call.
"""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from tree_tools import DEVICE, HOST, back_up, insert, insert_host, make_tree, tokens

from hicache_ext.errors import TreeError
from hicache_ext.namespace import Namespace
from hicache_ext.tree.results import Receipt


@pytest.fixture
def tree():
    """[1 2 3] on both tiers, [4] on the device, [5] in a namespace, [7] on the host; node `dead` is
    gone; receipts that are closed, of another tree and made up; plans that are over and open.
    """
    made = make_tree()
    dead = insert(made, (6,), [6]).node
    end = insert(made, (1, 2, 3), range(3)).node
    back_up(made, end, 50)
    insert(made, (4,), [4])
    made.insert(tokens(5), {"full": [5]}, b"lora")
    made.evict(DEVICE, {"full": 1})
    closed = made.lock(end)
    made.unlock(closed)
    other = make_tree()
    foreign = other.lock(insert(other, (1,), [0]).node)
    opened = made.lock(end)
    forged = Receipt(opened.id, opened.node, opened.tier, opened.num_pages)
    plan = made.begin_backup(made.match_prefix(tokens(4)).node)
    made.abort_backup(plan)
    (pin,) = made.begin_backup(plan.node).receipts
    insert_host(made, (7,), [90])
    held = {"closed": closed, "foreign": foreign, "forged": forged, "plan": plan, "pin": pin}
    return SimpleNamespace(tree=made, end=end, dead=dead, **held)


TREE_CASES = {
    "lock of a dead node": (lambda c: c.tree.lock(c.dead), "node {dead} does not exist"),
    "keys of a dead node": (lambda c: c.tree.keys(c.dead), "node {dead} does not exist"),
    "backup of a dead node": (lambda c: c.tree.begin_backup(c.dead), "node {dead} does not exist"),
    "graft below a dead node": (
        lambda c: insert_host(c.tree, (8,), [99], anchor=c.dead),
        "node {dead} does not exist",
    ),
    "window at a dead node": (
        lambda c: c.tree.window("swa", 0, c.dead, [99]).__enter__(),
        "node {dead} does not exist",
    ),
    "a node that is no number": (lambda c: c.tree.lock([1]), r"node \[1\] does not exist"),
    "unlock without a receipt": (lambda c: c.tree.unlock(None), "None is no open receipt"),
    "unlock twice": (lambda c: c.tree.unlock(c.closed), r"Receipt\(.*\) is no open receipt"),
    "unlock by another's receipt": (lambda c: c.tree.unlock(c.foreign), "is no open receipt"),
    "unlock by a forged receipt": (lambda c: c.tree.unlock(c.forged), "is no open receipt"),
    "unlock by a plan's pin": (lambda c: c.tree.unlock(c.pin), r"Pin\(.*\) is a plan's"),
    "release the window of a plan's pin": (
        lambda c: c.tree.release_window(c.pin, "swa"),
        r"Pin\(.*\) is a plan's",
    ),
    "a plan that is over": (lambda c: c.tree.abort_backup(c.plan), "is no open BackupPlan"),
    "no plan": (lambda c: c.tree.commit_backup(None, {}), "is no open BackupPlan"),
    "pages that are owned": (
        lambda c: insert(c.tree, (8,), [4]),
        "full device page 4 is in the tree already",
    ),
    "host pages that are owned": (
        lambda c: insert_host(c.tree, (8,), [50], anchor=0),
        "full host page 50 is in the tree already",
    ),
    "too few pages": (
        lambda c: c.tree.insert(tokens(8, 9), {"full": [9]}),
        "insert, full: 1 page ids for 2 pages",
    ),
    "a page that is no number": (
        lambda c: c.tree.insert(tokens(8), {"full": [9.0]}),
        "page ids must be 64-bit integers",
    ),
    "the anchor's namespace is another": (
        lambda c: c.tree.insert_host(0, tokens(8), [99], b"lora"),
        "anchor 0 is in namespace b'', the span in b'lora'",
    ),
    "a namespace that is no bytes": (
        lambda c: c.tree.match_prefix(tokens(1), Namespace("x")),
        r"a namespace is bytes, got Namespace\(lora='x'",
    ),
    "evict a part of a page": (
        lambda c: c.tree.evict(DEVICE, {"full": 1.5}),
        r"evict 1\.5 pages of 'full'",
    ),
    "lock a part of a page": (
        lambda c: c.tree.lock(c.end, HOST, {"full": 0.5}),
        r"lock of 0\.5 full pages",
    ),
    "lock more than there is": (
        lambda c: c.tree.lock(c.end, HOST, {"full": 4}),
        "lock of 4 full pages back from node {end}, 3 pages deep",
    ),
}


@pytest.mark.parametrize("name", TREE_CASES)
def test_tree_refuses(tree, name):
    call, message = TREE_CASES[name]
    made = tree.tree
    before = made.digest, made.show(), made.log.num_ops
    with pytest.raises(TreeError, match=message.format(dead=tree.dead, end=tree.end)):
        call(tree)
    assert (made.digest, made.show(), made.log.num_ops) == before
    made.check_integrity()


def test_tree_takes_what_is_only_unusual(tree):
    made = tree.tree
    assert made.match_prefix([]).num_tokens == made.match_prefix([1, 2, 3]).num_tokens == 0
    assert made.insert([], {"full": []}).num_tokens == 0
    assert made.insert([*tokens(8), 1, 2], {"full": [9]}).num_tokens == 4
    freed = made.evict(HOST, {"full": 10**9, "swa": 10**9})
    assert freed.host["full"] == [90] and freed.device["full"] == []
    made.check_integrity()
