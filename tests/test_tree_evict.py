"""Eviction and clear: victims, demotion, tombstones, cascades, bounded queues."""

import pytest
from tree_tools import DEVICE, HOST, back_up, insert, insert_host, make_tree, residency, tokens

from hicache_ext.tree import Strategy


@pytest.fixture
def tree():
    made = make_tree()
    yield made
    made.check_integrity()


def test_the_least_recently_used_leaf_goes_first(tree):
    insert(tree, (1,), [0])
    insert(tree, (2,), [1])
    tree.match_prefix(tokens(1))
    assert tree.evict(DEVICE, {"full": 1}).device == {"full": [1], "swa": [101]}
    assert tree.evict(DEVICE, {"full": 5}).device == {"full": [0], "swa": [100]}
    assert tree.evict(DEVICE, {"full": 1}).device == {"full": [], "swa": []}


def test_of_one_path_the_leaf_goes_and_then_its_parent(tree):
    insert(tree, (1, 2), [0, 1])
    insert(tree, (1, 2, 3), [0, 1, 2])
    assert tree.evict(DEVICE, {"full": 2}).device["full"] == [2, 0, 1]


def test_a_leaf_with_host_pages_is_demoted_and_one_without_deleted(tree):
    end = insert(tree, (1, 2), [0, 1]).node
    back_up(tree, end, 50)
    insert(tree, (7,), [7])
    tree.evict(DEVICE, {"full": 9})
    assert residency(tree, 1, 2) == {"full": "HH", "swa": "HH"}
    assert residency(tree, 7) == {"full": "", "swa": ""}


def test_an_inner_window_becomes_a_tombstone_and_one_at_a_leaf_takes_the_leaf(tree):
    insert(tree, (1, 2), [0, 1])
    insert(tree, (1, 2, 3, 4, 5), range(5))
    assert tree.evict(DEVICE, {"swa": 1}).device == {"full": [], "swa": [100, 101]}
    assert residency(tree, 1, 2, 3, 4, 5) == {"full": "DDDDD", "swa": "--DDD"}
    # The leaf goes whole, and with it the tombstone above: no match could end there.
    assert tree.evict(DEVICE, {"swa": 1}).device == {
        "full": [2, 3, 4, 0, 1],
        "swa": [102, 103, 104],
    }


def test_a_tombstone_stays_while_something_hangs_below_it(tree):
    insert(tree, (1, 2, 3, 4, 5), range(5), [-1, -1, 22, 23, 24])
    insert(tree, (1, 2, 6, 7, 8), [0, 1, 5, 6, 7], [-1, -1, 25, 26, 27])
    tree.match_prefix(tokens(1, 2, 6, 7, 8))
    assert tree.evict(DEVICE, {"full": 1}).device["full"] == [2, 3, 4]
    assert residency(tree, 1, 2, 6, 7, 8) == {"full": "DDDDD", "swa": "--DDD"}


def test_a_full_tree_has_no_dead_ends():
    tree = make_tree(window=None)
    tree.insert(tokens(1, 2), {"full": [0, 1]})
    tree.insert(tokens(1, 2, 3), {"full": [0, 1, 2]})
    assert tree.evict(DEVICE, {"full": 1}).device == {"full": [2]}


def test_the_host_gives_up_only_what_is_nowhere_else(tree):
    end = insert(tree, (1, 2, 3), range(3)).node
    back_up(tree, end, 50)
    assert tree.evict(HOST, {"full": 1, "swa": 1}).host == {"full": [], "swa": []}
    tree.evict(DEVICE, {"full": 3})
    assert tree.evict(HOST, {"full": 1}).host == {"full": [50, 51, 52], "swa": [53, 54, 55]}


def test_a_host_window_inside_the_tree_is_given_up_alone(tree):
    end = insert(tree, (1, 2), [0, 1]).node
    end = insert(tree, (1, 2, 3), range(3)).node
    back_up(tree, end, 50)
    tree.evict(DEVICE, {"full": 3})
    assert tree.evict(HOST, {"swa": 1}).host == {"full": [], "swa": [53, 54]}
    assert residency(tree, 1, 2, 3) == {"full": "HHH", "swa": "--H"}


def test_a_graft_without_a_window_is_not_taken_for_a_dead_end(tree):
    #  1 ── 2 (no window, a leaf) and 1 ── 3: the eviction of 3 leaves 2 alone
    insert_host(tree, (1, 3), [0, 1])
    insert_host(tree, (1, 2), [5, 6])
    tree.match_prefix(tokens(1, 2))
    assert tree.evict(HOST, {"full": 1}).host["full"] == [1]
    assert residency(tree, 1, 2) == {"full": "HH", "swa": "--"}


def test_clear_empties_a_tier_but_for_what_is_locked(tree):
    end = insert(tree, (1, 2), [0, 1]).node
    back_up(tree, end, 50)
    kept = insert(tree, (7,), [7]).node
    receipt = tree.lock(kept)
    freed = tree.clear(DEVICE)
    assert freed.device == {"full": [0, 1], "swa": [100, 101]}
    assert freed.host == {"full": [], "swa": []}
    assert residency(tree, 1, 2) == {"full": "HH", "swa": "HH"}
    tree.unlock(receipt)
    assert tree.clear(HOST).host == {"full": [50, 51], "swa": [52, 53]}
    assert tree.clear(DEVICE).device == {"full": [7], "swa": [107]}


def test_clear_drops_host_copies_of_pages_on_the_device(tree):
    end = insert(tree, (1, 2), [0, 1]).node
    back_up(tree, end, 50)
    assert tree.clear(HOST).host == {"full": [50, 51], "swa": [52, 53]}
    assert residency(tree, 1, 2) == {"full": "DD", "swa": "DD"}


def test_queues_do_not_remember_deleted_nodes_for_ever(tree):
    """FULL alone drives the eviction; the SWA queue must not grow with every node that ever was."""
    survivor = insert(tree, (0,), [5000]).node
    for i in range(1000):
        insert(tree, (1 + i,), [i])
        tree.match_prefix(tokens(0))
        assert tree.evict(DEVICE, {"full": 1}).device["full"] == [i]
    queue = tree._state.queues[1][DEVICE]
    assert len(queue._heap) < 200
    assert tree.match_prefix(tokens(0)).node == survivor
    assert tree.evict(DEVICE, {"swa": 1}).device["swa"] == [5100]


def test_a_queue_that_forgot_its_deleted_nodes_is_still_in_order():
    tree = make_tree(strategy=Strategy.PRIORITY)
    priorities = [i * 37 % 200 for i in range(200)]
    for i, priority in enumerate(priorities):
        tree.insert(tokens(1 + i), {"full": [i], "swa": [i]}, b"", priority)
    tree.coldest(DEVICE, "swa", 1)  # whatever was queued before it had its priority is sorted in
    tree.evict(DEVICE, {"full": 150})
    left = sorted(range(200), key=priorities.__getitem__)[150:]
    assert tree.evict(DEVICE, {"swa": 50}).device["swa"] == left


def test_clear_goes_from_the_leaves_up(tree):
    insert(tree, (1, 2), [0, 1])
    insert(tree, (1, 2, 3), range(3))
    assert tree.clear(DEVICE).device == {"full": [2, 0, 1], "swa": [102, 100, 101]}
