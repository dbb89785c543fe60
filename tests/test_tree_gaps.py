"""HostPaths.GAPS, for write_back: a node may be on the host below one that is not."""

import pytest
from tree_tools import DEVICE, HOST, insert, insert_host, residency, tokens

from hicache_ext.errors import TreeError
from hicache_ext.tree import Full, HostPaths, RadixTree, Swa


@pytest.fixture
def tree():
    made = RadixTree(4, (Full(), Swa(10)), host_paths=HostPaths.GAPS)
    yield made
    made.check_integrity()


def back_up_leaf(tree, node, first_page):
    plan = tree.begin_backup(node, last=1)
    count = plan.num_pages["full"]
    pages = range(first_page, first_page + count)
    assert not any(tree.commit_backup(plan, {"full": pages, "swa": pages}).values())


def two_nodes(tree):
    """[1 2] ── [3], on the device."""
    insert(tree, (1, 2), [0, 1])
    return insert(tree, (1, 2, 3), range(3)).node


def test_a_leaf_alone_goes_to_the_host_and_is_restored_with_its_parent_still_on_the_device(tree):
    end = two_nodes(tree)
    back_up_leaf(tree, end, 50)
    assert residency(tree, 1, 2, 3) == {"full": "DDB", "swa": "DDB"}
    tree.evict(DEVICE, {"full": 1})
    assert residency(tree, 1, 2, 3) == {"full": "DDH", "swa": "DDH"}
    assert tree.match_prefix(tokens(1, 2, 3)).num_tokens == 12
    plan = tree.begin_load_back(end)
    assert plan.host_pages == {"full": [50], "swa": [50]}
    tree.commit_load_back(plan, {"full": [7], "swa": [7]})
    assert residency(tree, 1, 2, 3) == {"full": "DDB", "swa": "DDB"}


def test_whole_paths_refuse_it():
    whole = RadixTree(4, (Full(), Swa(10)))
    end = two_nodes(whole)
    parent = whole.match_prefix(tokens(1, 2)).node
    with pytest.raises(TreeError, match=f"the host has no pages of node {parent}"):
        whole.begin_backup(end, last=1)
    assert whole.begin_backup(end, last=2).num_pages == {"full": 3, "swa": 3}


def test_a_parent_that_only_the_device_has_takes_what_is_below_it_along(tree):
    end = two_nodes(tree)
    back_up_leaf(tree, end, 50)
    freed = tree.evict(DEVICE, {"full": 3})
    assert freed.device == {"full": [2, 0, 1], "swa": [102, 100, 101]}
    assert freed.host == {"full": [50], "swa": [50]}
    assert tree.match_prefix(tokens(1, 2, 3)).num_full_tokens == 0


def test_a_lock_below_keeps_it(tree):
    end = two_nodes(tree)
    back_up_leaf(tree, end, 50)
    receipt = tree.lock(end, HOST)
    assert tree.evict(DEVICE, {"full": 3}).device["full"] == [2]
    assert residency(tree, 1, 2, 3)["full"] == "DDH"
    tree.unlock(receipt)


def test_clear_takes_it_along_as_well(tree):
    end = two_nodes(tree)
    back_up_leaf(tree, end, 50)
    tree.evict(DEVICE, {"full": 1})
    freed = tree.clear(DEVICE)
    assert (freed.device["full"], freed.host["full"]) == ([0, 1], [50])


def test_a_graft_hangs_below_what_the_device_alone_has(tree):
    anchor = insert(tree, (1, 2), [0, 1]).node
    graft = insert_host(tree, (3, 4), [50, 51], anchor=anchor)
    assert graft.num_present_tokens == 0
    with tree.window("swa", anchor, graft.node, [60, 61]) as txn:
        assert txn.commit().attached == [60, 61]
    assert residency(tree, 1, 2, 3, 4) == {"full": "DDHH", "swa": "DDHH"}


def test_a_prefetch_hangs_where_the_match_ends(tree):
    end = two_nodes(tree)
    assert tree.match_prefix(tokens(1, 2, 3, 4)).host_node == end


def test_present_counts_the_leading_pages_alone(tree):
    end = two_nodes(tree)
    back_up_leaf(tree, end, 50)
    again = insert_host(tree, (1, 2, 3), [60, 61, 62])
    assert (again.num_present_tokens, again.released) == (0, [62])


def test_no_window_lands_on_a_node_without_host_pages(tree):
    end = two_nodes(tree)
    back_up_leaf(tree, end, 50)
    tree.evict(HOST, {"swa": 9})
    with tree.window("swa", tree.match_prefix([]).node, end, [60, 61, 62]) as txn:
        result = txn.commit()
    assert (result.attached, result.released) == ([], [60, 61, 62])


def test_a_missing_host_parent_is_no_violation_here_and_one_elsewhere(tree):
    end = two_nodes(tree)
    back_up_leaf(tree, end, 50)
    tree.check_integrity()
    tree._state.host_paths = HostPaths.WHOLE
    with pytest.raises(TreeError, match="I2"):
        tree.check_integrity()
    tree._state.host_paths = HostPaths.GAPS


def test_all_generations_below_go_the_deepest_first(tree):
    anchor = insert(tree, (1, 2), [0, 1]).node
    child = insert_host(tree, (3,), [50], anchor=anchor).node
    insert_host(tree, (4,), [51], anchor=child)
    insert_host(tree, (5, 6), [52, 53], anchor=child)
    assert tree.evict(DEVICE, {"full": 1}).host["full"] == [52, 53, 51, 50]
    assert len(tree._state.nodes) == 1
