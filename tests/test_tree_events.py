"""Events of the tree: which pages joined and left which tier, as one who only listens sees it."""

import pytest
from tree_tools import DEVICE, HOST, PAGE, back_up, insert, insert_host, tokens

from hicache_ext.keys import KEY_BYTES, namespace_seed, page_keys_py
from hicache_ext.tree import Full, KeyUnit, RadixTree, Swa, pack_tokens
from hicache_ext.tree import events as tree_events
from hicache_ext.tree.events import EventKind, PageEvent

STORED, REMOVED, CLEARED = EventKind


def make_tree(**kwargs):
    return RadixTree(PAGE, (Full(), Swa(10)), has_events=True, **kwargs)


def keys(*pages, namespace=b""):
    return page_keys_py(pack_tokens(tokens(*pages)), PAGE, namespace_seed(namespace))


def stored(tier, chain, first, pages, namespace=b""):
    """The event of the pages from `first` on of a sequence whose keys are `chain`."""
    parent = chain[first - 1] if first else b""
    run = b"".join(chain[first:])
    return PageEvent(STORED, tier, run, parent, pack_tokens(tokens(*pages)), namespace)


def test_an_insert_stores_what_is_new_with_its_parent():
    tree = make_tree()
    insert(tree, (1, 2), [0, 1])
    assert tree.take_events() == [stored(DEVICE, keys(1, 2), 0, (1, 2))]
    insert(tree, (1, 2, 3), [0, 1, 2])
    assert tree.take_events() == [stored(DEVICE, keys(1, 2, 3), 2, (3,))]
    assert tree.take_events() == []


def test_a_split_and_a_match_raise_nothing():
    tree = make_tree()
    insert(tree, (1, 2, 3), [0, 1, 2])
    tree.take_events()
    tree.match_prefix(tokens(1, 2))
    assert "#2" in tree.show() and tree.take_events() == []


def test_backup_and_demotion_are_the_other_tiers():
    tree = make_tree()
    end = insert(tree, (1, 2), [0, 1]).node
    tree.take_events()
    back_up(tree, end, 10)
    chain = keys(1, 2)
    assert tree.take_events() == [stored(HOST, chain, 0, (1, 2))]
    tree.evict(DEVICE, {"full": 2})
    assert tree.take_events() == [PageEvent(REMOVED, DEVICE, b"".join(chain))]
    tree.evict(HOST, {"full": 2})
    assert tree.take_events() == [PageEvent(REMOVED, HOST, b"".join(chain))]


def test_a_namespace_is_told_and_has_keys_of_its_own():
    tree = make_tree()
    for page, namespace in enumerate((b"", b"lora")):
        tree.insert(tokens(1), {"full": [page]}, namespace)
    chains = [keys(1), keys(1, namespace=b"lora")]
    names = (b"", b"lora")
    expected = [stored(DEVICE, c, 0, (1,), n) for c, n in zip(chains, names, strict=True)]
    assert tree.take_events() == expected


def test_clear_says_that_nothing_is_left_and_only_then():
    tree = make_tree()
    insert(tree, (1,), [0])
    insert_host(tree, (2,), [0])
    tree.clear(DEVICE)
    assert [e.kind for e in tree.take_events()] == [STORED, STORED, REMOVED]
    insert(tree, (1,), [0])
    receipt = tree.lock(tree.match_prefix(tokens(1)).node)
    tree.clear(HOST)
    tree.clear(DEVICE)
    assert [e.kind for e in tree.take_events()] == [STORED, REMOVED]
    tree.unlock(receipt)
    tree.clear(DEVICE)
    assert tree.take_events() == [PageEvent(CLEARED)]


def test_a_window_raises_nothing_committed_or_not():
    tree = make_tree()
    graft = insert_host(tree, (1, 2, 3), [0, 1, 2])
    tree.take_events()
    with tree.window("swa", 0, graft.node, [7]) as window:
        window.stage()  # splits
    with tree.window("swa", 0, graft.node, [7]) as window:
        window.commit()
    assert tree.take_events() == []
    tree.check_integrity()


def test_one_who_comes_later_gets_a_snapshot():
    tree = make_tree()
    end = insert(tree, (1, 2), [0, 1]).node
    tree.match_prefix(tokens(1))
    back_up(tree, end, 10)
    chain = keys(1, 2)
    first, second = chain[:1], chain
    assert tree.event_snapshot() == [
        PageEvent(CLEARED),
        *(stored(tier, first, 0, (1,)) for tier in (DEVICE, HOST)),
        *(stored(tier, second, 1, (2,)) for tier in (DEVICE, HOST)),
    ]


def test_events_that_nobody_takes_give_way_to_a_snapshot(monkeypatch):
    monkeypatch.setattr(tree_events, "MAX_PENDING_PAGES", 3)
    tree = make_tree()
    for page in (1, 2, 3):
        insert(tree, (page,), [page])
    assert [e.kind for e in tree.take_events()] == [STORED] * 3
    for page in (4, 5, 6, 7, 8):
        insert(tree, (page,), [page])
    tree.evict(DEVICE, {"full": 1})
    assert tree._state.events._pending == []
    assert tree.take_events() == tree.event_snapshot()
    insert(tree, (9,), [9])
    assert [e.kind for e in tree.take_events()] == [STORED]


def test_events_cost_no_keys_when_nobody_listens():
    tree = RadixTree(PAGE, (Full(),))
    node = tree.insert(tokens(1), {"full": [0]}).node
    assert tree.take_events() == [] and tree._state.get(node).hashes is None


@pytest.mark.parametrize("unit", KeyUnit)
def test_tokens_of_an_event_are_the_trees_own(unit):
    tree = make_tree(unit=unit)
    ids = list(range(9))
    tree.insert(ids, {"full": [0, 1]})
    (event,) = tree.take_events()
    assert event.tokens == tree.pack(ids)[: 8 * unit.num_bytes]
    assert len(event.keys) == 2 * KEY_BYTES
