"""Strategies of eviction, hits and priorities; coldest(), which tells what an eviction will do."""

import pytest
from tree_tools import DEVICE, HOST, insert, insert_host, make_tree, tokens

from hicache_ext.errors import LayoutError
from hicache_ext.tree import Full, RadixTree, Strategy


def full_tree(strategy):
    return RadixTree(4, (Full(),), strategy=strategy)


def victims(tree, *calls):
    """Inserts prompts of one page, matches or gives priorities, then the order of all victims."""
    page = 0
    for verb, prompt, *priority in calls:
        if verb == "insert":
            tree.insert(tokens(prompt), {"full": [page]}, b"", *priority)
            page += 1
        else:
            assert tree.match_prefix(tokens(prompt)).num_tokens == 4
    order = tree.coldest(DEVICE, "full", 99)
    freed = tree.evict(DEVICE, {"full": 99}).device["full"]
    assert len(order) == len(freed) == page
    tree.check_integrity()
    return freed


def test_lru():
    calls = [("insert", 1), ("insert", 2), ("insert", 3), ("match", 1)]
    assert victims(full_tree("lru"), *calls) == [1, 2, 0]


def test_lfu_takes_what_was_hit_least_and_then_the_least_recent():
    calls = [("insert", 1), ("insert", 2), ("insert", 3), ("match", 1), ("match", 1), ("match", 3)]
    assert victims(full_tree("lfu"), *calls) == [1, 2, 0]


def test_slru_protects_what_was_found_again_however_long_ago():
    calls = [("insert", 1), ("insert", 2), ("match", 1), ("match", 2), ("match", 1), ("insert", 3)]
    assert victims(full_tree("slru"), *calls) == [2, 1, 0]


def test_fifo_does_not_care_about_use():
    calls = [("insert", 1), ("insert", 2), ("match", 1), ("insert", 3), ("match", 1)]
    assert victims(full_tree("fifo"), *calls) == [0, 1, 2]


def test_priority_takes_the_lowest_and_then_the_least_recent():
    calls = [("insert", 1, 5), ("insert", 2), ("insert", 3, -1), ("insert", 4), ("match", 2)]
    assert victims(full_tree("priority"), *calls) == [2, 3, 1, 0]


def test_a_path_keeps_its_highest_priority():
    tree = full_tree("priority")
    tree.insert(tokens(1, 2), {"full": [0, 1]}, b"", 7)
    tree.insert(tokens(1, 3), {"full": [0, 3]}, b"", 2)
    priorities = {node.end: node.priority for node in tree._state.nodes.values() if node.end == 1}
    assert priorities == {1: 7}
    assert tree.evict(DEVICE, {"full": 1}).device["full"] == [3]


def test_a_strategy_is_one_of_the_known():
    assert full_tree(Strategy.FIFO).match_prefix([]).node == 0
    with pytest.raises(LayoutError, match=r"strategy 'mru' is unknown; known are \['lru', 'lfu'"):
        full_tree("mru")


def test_hits_count_requests_not_chunks_and_grow_upwards():
    tree = full_tree("lru")
    tree.insert(tokens(1), {"full": [0]})
    end = tree.insert(tokens(1, 2), {"full": [0, 1]}).node  # the second chunk of one request
    first = tree.match_prefix(tokens(1)).node  # another request
    assert (tree.num_hits(first), tree.num_hits(end)) == (2, 1)
    tree.match_prefix(tokens(1, 2))
    assert (tree.num_hits(first), tree.num_hits(end)) == (3, 2)


def test_pages_from_storage_have_no_hit_until_they_are_used():
    tree = full_tree("lru")
    graft = insert_host(tree, (1, 2), [0, 1]).node
    assert tree.num_hits(graft) == 0
    assert tree.match_prefix(tokens(1, 2)).node == graft and tree.num_hits(graft) == 1


# --- coldest ---------------------------------------------------------------------------------


def test_coldest_lists_as_many_victims_as_have_the_pages_and_changes_nothing():
    tree = make_tree()
    nodes = [insert(tree, (i, 10 + i), [2 * i, 2 * i + 1]).node for i in range(4)]
    locked = tree.lock(nodes[0])
    tree.match_prefix(tokens(1, 11))
    before = tree.digest, tree.show()
    assert tree.coldest(DEVICE, "full", 0) == []
    assert tree.coldest(DEVICE, "full", 1) == [nodes[2]]
    assert tree.coldest(DEVICE, "full", 3) == [nodes[2], nodes[3]]
    assert tree.coldest(DEVICE, "full", 99) == [nodes[2], nodes[3], nodes[1]]
    assert tree.coldest(HOST, "full", 99) == []
    assert (tree.digest, tree.show()) == before
    tree.check_integrity()
    assert tree.evict(DEVICE, {"full": 4}).device["full"] == [4, 5, 6, 7]
    tree.unlock(locked)


# --- backup of a part ------------------------------------------------------------------------


def test_a_backup_may_ask_for_hits():
    tree = full_tree("lru")
    tree.insert(tokens(1, 2), {"full": [0, 1]})
    tree.match_prefix(tokens(1))
    end = tree.insert(tokens(1, 2, 3), {"full": [0, 1, 2]}).node
    assert tree.begin_backup(end, min_hits=3) is None
    plan = tree.begin_backup(end, min_hits=2)
    assert plan.device_pages == {"full": [0]}
    tree.commit_backup(plan, {"full": [50]})
    assert tree.path_pages(end, "full", HOST) == [50, -1, -1]
    tree.check_integrity()
