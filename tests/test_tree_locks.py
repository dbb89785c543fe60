"""Locks: what they cover, that splits do not lose them, that they keep pages and nodes."""

import pytest
from tree_tools import DEVICE, HOST, back_up, insert, insert_host, make_tree, residency, tokens

from hicache_ext.errors import TreeError
from hicache_ext.tree import PageCounts


@pytest.fixture
def tree():
    made = make_tree()
    yield made
    made.check_integrity()


def locks(tree, node, tier):
    """Lock counts of the nodes of the path, root-first: per node (full, swa)."""
    found, at = [], tree._state.get(node)
    while not at.is_root:
        found.insert(0, tuple(part.locks[tier] for part in at.parts))
        at = at.parent
    return found


def make_path(tree):
    """Nodes of 2 pages each: [1 2] ── [3 4] ── [5 6]."""
    for count in (2, 4, 6):
        end = insert(tree, range(1, count + 1), range(count))
    return end.node


def test_full_locks_the_path_and_swa_whole_nodes_until_the_window_is_covered(tree):
    end = make_path(tree)
    receipt = tree.lock(end)
    assert receipt.num_pages == (6, 4)  # a window of 3 pages needs two nodes of 2
    assert locks(tree, end, DEVICE) == [(1, 0), (1, 1), (1, 1)]
    assert locks(tree, end, HOST) == [(0, 0)] * 3
    tree.unlock(receipt)
    assert locks(tree, end, DEVICE) == [(0, 0)] * 3


def test_a_lock_may_say_how_many_pages_and_is_rounded_up_to_nodes(tree):
    #  5 pages back begin inside of [1 2]: a split there must not lose a fragment of the lock
    end = make_path(tree)
    receipt = tree.lock(end, HOST, {"swa": 5})
    assert receipt.num_pages == (6, 6) and locks(tree, end, HOST) == [(1, 1)] * 3
    tree.match_prefix(tokens(1))
    assert locks(tree, end, HOST) == [(1, 1)] * 4
    tree.unlock(receipt)
    assert locks(tree, end, HOST) == [(0, 0)] * 4
    none = tree.lock(end, HOST, {})
    assert none.num_pages == (6, 0)
    tree.unlock(none)


def test_release_visits_what_was_locked_after_splits_and_new_children(tree):
    # [1 2] ── [3 4] ── [5 6] locked, then split inside [3 4] and inside [1 2], with a branch at
    # each
    end = make_path(tree)
    receipt = tree.lock(end)
    insert(tree, (1, 2, 3, 8), [0, 1, 2, 8])
    insert(tree, (1, 9), [0, 9])
    tree.check_integrity()
    assert locks(tree, end, DEVICE) == [(1, 0), (1, 0), (1, 1), (1, 1), (1, 1)]
    tree.unlock(receipt)
    assert locks(tree, end, DEVICE) == [(0, 0)] * 5


def test_locked_pages_stay_and_the_rest_goes(tree):
    end = make_path(tree)
    insert(tree, (1, 2, 8), [0, 1, 8])
    receipt = tree.lock(end)
    freed = tree.evict(DEVICE, {"full": 9, "swa": 9})
    # Pages 1 2 lie before the window: their SWA goes, their FULL is on the locked path.
    assert freed.device == {"full": [8], "swa": [108, 100, 101]}
    assert residency(tree, 1, 2, 3, 4, 5, 6) == {"full": "DDDDDD", "swa": "--DDDD"}
    tree.unlock(receipt)


def test_a_host_lock_keeps_a_node_that_is_on_the_device_only(tree):
    end = insert(tree, (1, 2), [0, 1]).node
    receipt = tree.lock(end, HOST)
    assert tree.evict(DEVICE, {"full": 2}).device["full"] == []
    tree.unlock(receipt)
    assert tree.evict(DEVICE, {"full": 2}).device["full"] == [0, 1]


def test_a_host_lock_does_not_hinder_a_demotion(tree):
    end = insert(tree, (1, 2), [0, 1]).node
    back_up(tree, end, 50)
    receipt = tree.lock(end, HOST)
    assert tree.evict(DEVICE, {"full": 2}).device["full"] == [0, 1]
    assert tree.evict(HOST, {"full": 2, "swa": 2}).host == {"full": [], "swa": []}
    tree.unlock(receipt)
    assert tree.evict(HOST, {"full": 2}).host["full"] == [50, 51]


def test_a_device_lock_keeps_a_node_that_is_on_the_host_only(tree):
    end = insert_host(tree, (1, 2), [0, 1]).node
    receipt = tree.lock(end, DEVICE)
    assert tree.evict(HOST, {"full": 2}).host["full"] == []
    tree.unlock(receipt)


def test_two_locks_count_twice(tree):
    end = insert(tree, (1,), [0]).node
    first, second = tree.lock(end), tree.lock(end)
    tree.unlock(first)
    assert tree.evict(DEVICE, {"full": 1}).device["full"] == []
    tree.unlock(second)
    assert tree.evict(DEVICE, {"full": 1}).device["full"] == [0]


def test_a_receipt_is_good_once_and_only_in_its_tree(tree):
    end = insert(tree, (1,), [0]).node
    receipt = tree.lock(end)
    other = make_tree()
    other_end = insert(other, (1,), [0]).node
    other.lock(other_end)  # a receipt with the same numbers
    with pytest.raises(TreeError, match="no open receipt"):
        other.unlock(receipt)
    tree.unlock(receipt)
    for misuse in (receipt, None, "receipt"):
        with pytest.raises(TreeError, match="no open receipt"):
            tree.unlock(misuse)


def test_locking_a_root_or_a_dead_node(tree):
    end = insert(tree, (1,), [0]).node
    receipt = tree.lock(tree.match_prefix([]).node, HOST)
    assert receipt.num_pages == (0, 0)
    tree.unlock(receipt)
    tree.evict(DEVICE, {"full": 1})
    with pytest.raises(TreeError, match=f"node {end} does not exist"):
        tree.lock(end)
    assert tree.match_prefix(tokens(1)).num_full_tokens == 0


# --- early release of a window ----------------------------------------------------------------


def test_the_window_of_a_lock_can_be_released_early(tree):
    end = make_path(tree)
    receipt = tree.lock(end)
    left = tree.release_window(receipt, "swa")
    assert left.num_pages == (6, 0)
    assert locks(tree, end, DEVICE) == [(1, 0)] * 3
    assert tree.evict(DEVICE, {"full": 9, "swa": 9}).device == {
        "full": [],
        "swa": [100, 101, 102, 103, 104, 105],
    }
    with pytest.raises(TreeError, match="no open receipt"):
        tree.unlock(receipt)
    tree.unlock(left)
    assert locks(tree, end, DEVICE) == [(0, 0)] * 3


def test_a_window_that_an_eviction_had_to_leave_is_a_victim_once_it_is_released(tree):
    receipt = tree.lock(make_path(tree))
    assert tree.evict(DEVICE, {"swa": 9}).device["swa"] == [100, 101]
    receipt = tree.release_window(receipt, "swa")
    assert tree.evict(DEVICE, {"swa": 9}).device["swa"] == [102, 103, 104, 105]
    tree.unlock(receipt)


def test_an_early_release_after_splits_and_beside_another_lock(tree):
    end = make_path(tree)
    first, second = tree.lock(end), tree.lock(end)
    tree.match_prefix(tokens(1, 2, 3))
    first = tree.release_window(first, "swa")
    assert locks(tree, end, DEVICE) == [(2, 0), (2, 1), (2, 1), (2, 1)]
    assert tree.release_window(first, "swa").num_pages == (6, 0)  # nothing is left of it: legal
    tree.unlock(second)
    assert locks(tree, end, DEVICE) == [(1, 0)] * 4


def test_the_base_is_locked_as_long_as_the_receipt_is_open(tree):
    receipt = tree.lock(make_path(tree))
    with pytest.raises(TreeError, match="'full' is the base"):
        tree.release_window(receipt, "full")
    with pytest.raises(TreeError, match="'mamba' is unknown"):
        tree.release_window(receipt, "mamba")
    with pytest.raises(TreeError, match="no open receipt"):
        tree.release_window(None, "swa")
    tree.unlock(receipt)


def test_counts_tell_what_is_locked(tree):
    end = make_path(tree)
    assert tree.page_counts(DEVICE, "full") == PageCounts(6, 0)
    receipt = tree.lock(end)
    assert tree.page_counts(DEVICE, "full") == PageCounts(0, 6)
    assert tree.page_counts(DEVICE, "swa") == PageCounts(2, 4)
    assert tree.page_counts(HOST, "full") == PageCounts(0, 0)
    receipt = tree.release_window(receipt, "swa")
    assert tree.page_counts(DEVICE, "swa") == PageCounts(6, 0)
    tree.unlock(receipt)
    assert tree.page_counts(DEVICE, "full") == PageCounts(6, 0)


def test_counts_follow_pages_that_come_to_locked_nodes(tree):
    end = insert_host(tree, (1, 2, 3), range(3)).node
    receipt = tree.lock(end, HOST)
    with tree.window("swa", tree.match_prefix([]).node, end, [7, 8, 9]) as txn:
        txn.stage()
        tree.check_integrity()
    assert tree.page_counts(HOST, "swa") == PageCounts(0, 0)  # rolled back
    with tree.window("swa", tree.match_prefix([]).node, end, [7, 8, 9]) as txn:
        txn.commit()
    assert tree.page_counts(HOST, "swa") == PageCounts(0, 3)
    tree.unlock(receipt)


def test_a_lock_on_a_long_new_prompt_leaves_the_pages_before_its_window(tree):
    #  [1 .. 6] comes as [1 2 3] and [4 5 6]: the lock keeps one window of 3 pages
    end = insert(tree, (1, 2, 3, 4, 5, 6), range(6)).node
    receipt = tree.lock(end)
    assert receipt.num_pages == (6, 3)
    assert tree.evict(DEVICE, {"swa": 9}).device["swa"] == [100, 101, 102]
    assert tree.match_prefix(tokens(1, 2, 3, 4, 5, 6)).num_tokens == 24
    tree.unlock(receipt)
