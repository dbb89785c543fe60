"""The log of operations: a bounded ring, a hash that ranks can compare, text without user data."""

import pytest

from hicache_ext.oplog import HASH_MASK, NUM_KEPT, OpKind, OpLog
from hicache_ext.tier import Tier
from hicache_ext.tree import Full, RadixTree, Swa, kinds

PUT, TAKE = OpKind("put {} pages {}"), OpKind("take {} pages {}")


def log_of(*entries):
    log = OpLog()
    for entry in entries:
        log.add(*entry)
    return log


def test_the_hash_tells_kind_values_and_order():
    a, b = (PUT, 1, (2, 3)), (TAKE, 4, (5,))
    logs = [
        log_of(),
        log_of(a),
        log_of(b),
        log_of(a, b),
        log_of(b, a),
        log_of(a, a),
        log_of(a, b, a),
    ]
    logs += [log_of((TAKE, 1, (2, 3))), log_of((PUT, 1, (3, 2))), log_of((PUT, 2, (2, 3)))]
    assert len({log.hash for log in logs}) == len(logs)
    assert log_of(a, b).hash == log_of(a, b).hash
    assert all(0 <= log.hash <= HASH_MASK for log in logs)


def test_every_python_hashes_alike():
    """The value of CPython 3.10 to 3.13: with another one, ranks could not be compared."""
    log = OpLog()
    for i in range(300):
        log.add(OpKind("x {}"), i, (i, -1), 2**61 + i)
    assert log.hash == 0x29BEBBCD33CF8E30


def test_the_ring_keeps_the_last_ones():
    log = OpLog()
    hashes = []
    for i in range(NUM_KEPT + 10):
        log.add(PUT, i, (i,))
        hashes.append(log.hash)
    assert (log.first, log.num_ops) == (10, NUM_KEPT + 10)
    assert log.text(10) == "put 10 pages (10,)"
    assert log.text(NUM_KEPT + 9) == f"put {NUM_KEPT + 9} pages ({NUM_KEPT + 9},)"
    assert [log.hash_after(i) for i in range(10, NUM_KEPT + 10)] == hashes[10:]
    for op in (9, NUM_KEPT + 10, -1):
        with pytest.raises(IndexError, match=f"operation {op} not in"):
            log.text(op)


def words(tree):
    log = tree._state.log
    return [log.text(i) for i in range(log.first, log.num_ops)]


def test_every_changing_call_of_the_tree_is_logged_in_words():
    tree = RadixTree(2, (Full(), Swa(4)))
    tokens = list(range(91000, 91008))
    tree.insert(tokens, {"full": [5, 6, 7, 8], "swa": [-1, -1, 3, 4]}, b"secret")
    found = tree.match_prefix(tokens, b"secret")
    receipt = tree.lock(found.node, Tier.DEVICE)
    tree.unlock(receipt)
    plan = tree.begin_backup(found.node)
    tree.commit_backup(plan, {"full": [0, 1, 2, 3], "swa": [0, 1]})
    assert tree.begin_backup(found.node) is None and tree.begin_load_back(found.node) is None
    tree.evict(Tier.DEVICE, {"full": 4})
    tree.abort_load_back(tree.begin_load_back(found.node))
    anchor = tree.insert_host(0, [1, 2], [9])
    with tree.window("swa", 0, anchor.node, [7]) as txn:
        txn.commit()
    tree.clear(Tier.HOST)
    tree.insert_host(0, [1, 2], [9])
    said = words(tree)
    hashed = [text.split(" (hash ")[0] for text in said]
    assert hashed[:2] == ["first use of a namespace", "insert tokens=8"]
    assert said[1].endswith(
        "pages=(4, 2) priority=0 -> node 2, 0 pages were present, (0, 0) come back"
    )
    assert said[2].endswith("below 0 -> node 2, on the device 2, host 0, full 2")
    assert said[3:8] == [
        "lock node 2 on DEVICE, pages back (4, 2) -> receipt 0",
        "unlock receipt 0",
        "begin a copy to HOST for node 2, pages=(4, 2) -> plan 2",
        "commit plan 2, pages that come back (0, 0)",
        "begin a copy to HOST for node 2 -> nothing to copy",
    ]
    assert said[9] == "evict pages=(4, 0) on DEVICE -> device (4, 2), host (0, 0), 3 nodes left"
    assert said[11] == "abort plan 5"
    assert said[13] == "window of 1 pages, component 1, anchor 0, at node 3 -> 1 attached"
    assert said[14] == "clear HOST -> device (0, 0), host (5, 3), 1 nodes left"
    # Tokens and namespaces are user data.
    assert not any("9100" in text or "secret" in text for text in said)


def test_every_kind_of_the_tree_has_a_code_of_its_own():
    known = [kind for kind in vars(kinds).values() if isinstance(kind, OpKind)]
    assert len({kind.code for kind in known}) == len(known) > 10
