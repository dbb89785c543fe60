"""MAMBA: states at the right ends of nodes. Page 4; FULL, SWA with a window of one page, MAMBA."""

import pytest
from tree_tools import DEVICE, HOST, back_up, tokens

from hicache_ext.errors import TreeError
from hicache_ext.tree import Full, Mamba, RadixTree, Swa


@pytest.fixture
def tree():
    made = RadixTree(4, (Full(), Swa(4), Mamba()))
    yield made
    made.check_integrity()


def insert(tree, pages, full, states):
    full = list(full)
    return tree.insert(tokens(*pages), {"full": full, "swa": full, "mamba": states})


def test_a_match_ends_at_a_state(tree):
    end = insert(tree, (1, 2, 3, 4), range(4), [-1, 8, -1, 9]).node
    assert tree.path_pages(end, "mamba", DEVICE) == [-1, 8, -1, 9]
    assert tree.match_prefix(tokens(1, 2, 3, 4)).num_tokens == 16
    assert tree.match_prefix(tokens(1, 2, 3)).num_tokens == 8


def test_a_split_leaves_the_state_at_the_suffix(tree):
    end = insert(tree, (1, 2, 3), range(3), [-1, -1, 9]).node
    assert tree.match_prefix(tokens(1, 2)).num_tokens == 0
    assert tree.path_pages(end, "mamba", DEVICE) == [-1, -1, 9]


def test_a_branch_gets_its_checkpoint_where_full_ended(tree):
    insert(tree, (1, 2, 3), range(3), [-1, -1, 9])
    found = tree.match_prefix(tokens(1, 2, 5))
    assert (found.num_tokens, found.num_full_tokens) == (0, 8)
    insert(tree, (1, 2, 5), [0, 1, 5], [-1, 7, 8])
    assert tree.match_prefix(tokens(1, 2, 6)).num_tokens == 8


def test_a_state_that_is_there_already_comes_back(tree):
    insert(tree, (1, 2), [0, 1], [-1, 9])
    assert insert(tree, (1, 2), [0, 1], [-1, 9]).released["mamba"] == []
    assert insert(tree, (1, 2), [0, 1], [-1, 6]).released["mamba"] == [6]


def test_full_takes_swa_and_states_and_swa_takes_states(tree):
    insert(tree, (1,), [0], [7])
    insert(tree, (1, 2), [0, 1], [7, 8])
    assert tree.evict(DEVICE, {"mamba": 1}).device == {"full": [], "swa": [], "mamba": [7]}
    insert(tree, (1,), [0], [7])
    tree.match_prefix(tokens(1, 2))
    assert tree.evict(DEVICE, {"swa": 1}).device == {"full": [], "swa": [0], "mamba": [7]}
    assert tree.evict(DEVICE, {"full": 1}).device["mamba"] == [8]


def test_a_lock_keeps_one_state(tree):
    end = insert(tree, (1, 2), [0, 1], [7, 8]).node
    receipt = tree.lock(end)
    assert receipt.num_pages == (2, 1, 1)
    assert tree.evict(DEVICE, {"mamba": 5}).device["mamba"] == [7]
    assert tree.evict(DEVICE, {"full": 5, "swa": 5}).device == {"full": [], "swa": [0], "mamba": []}
    tree.unlock(receipt)


def test_states_that_no_end_needed_go_first(tree):
    # Prompt 1 2 3 has a state after each page, but only the last is behind an end point.
    insert(tree, (9,), [9], [70])
    insert(tree, (1, 2, 3), range(3), [71, 72, 73])
    assert tree.evict(DEVICE, {"mamba": 2}).device["mamba"] == [71, 72]
    assert tree.match_prefix(tokens(1, 2, 3)).num_tokens == 12


def test_a_backup_takes_each_state_and_a_load_back_only_the_last(tree):
    end = insert(tree, (1, 2, 3), range(3), [-1, 8, 9]).node
    plan = tree.begin_backup(end)
    assert plan.num_pages == {"full": 3, "swa": 3, "mamba": 2}
    tree.match_prefix(tokens(1))
    tree.commit_backup(plan, {"full": [0, 1, 2], "swa": [0, 1, 2], "mamba": [5, 6]})
    assert tree.path_pages(end, "mamba", HOST) == [-1, 5, 6]
    tree.evict(DEVICE, {"full": 9})
    plan = tree.begin_load_back(end)
    assert plan.num_pages == {"full": 3, "swa": 1, "mamba": 1}
    tree.commit_load_back(plan, {"full": [0, 1, 2], "swa": [4], "mamba": [7]})
    assert tree.match_prefix(tokens(1, 2, 3)).device_node == end


def test_a_state_on_the_host_ends_no_match_on_the_device(tree):
    insert(tree, (1, 2), [0, 1], [7, 8])
    middle = tree.match_prefix(tokens(1)).node
    back_up(tree, tree.match_prefix(tokens(1, 2)).node, 50)
    tree.evict(DEVICE, {"mamba": 1})
    found = tree.match_prefix(tokens(1))
    assert (found.node, found.num_device_tokens) == (middle, 0)


def test_a_load_back_divides_no_node_for_its_state():
    tree = RadixTree(4, (Full(), Mamba()))
    end = tree.insert(tokens(1, 2, 3), {"full": range(3), "mamba": [-1, -1, 9]}).node
    back_up(tree, end, 50)
    tree.evict(DEVICE, {"full": 3})
    num_nodes = len(tree._state.nodes)
    tree.commit_load_back(tree.begin_load_back(end), {"full": range(3), "mamba": [9]})
    assert len(tree._state.nodes) == num_nodes
    tree.check_integrity()


def test_a_node_without_its_state_cannot_be_loaded_back(tree):
    insert(tree, (1, 2), [0, 1], [7, 8])
    middle = tree.match_prefix(tokens(1)).node
    back_up(tree, tree.match_prefix(tokens(1, 2)).node, 50)
    tree.evict(DEVICE, {"full": 9})
    tree.evict(HOST, {"mamba": 1})
    with pytest.raises(TreeError, match=f"node {middle} .* its mamba pages at tokens 0..4"):
        tree.begin_load_back(middle)


def test_a_state_from_storage_joins_by_a_window_of_one_page(tree):
    graft = tree.insert_host(tree.match_prefix([]).node, tokens(5, 6), [8, 9]).node
    for name in ("swa", "mamba"):
        with tree.window(name, 0, graft, [1]) as txn:
            assert txn.commit().attached == [1]
    assert tree.path_pages(graft, "mamba", HOST) == [-1, 1]
    assert tree.match_prefix(tokens(5, 6)).num_tokens == 8


def test_a_window_whose_eviction_would_take_a_locked_state_stays(tree):
    end = insert(tree, (1, 2), [0, 1], [7, 8]).node
    receipt = tree.release_window(tree.lock(end), "swa")
    assert tree.evict(DEVICE, {"swa": 9}).device["swa"] == [0]
    receipt = tree.release_window(receipt, "mamba")
    assert tree.evict(DEVICE, {"swa": 9}).device == {"full": [], "swa": [1], "mamba": [8]}
    tree.unlock(receipt)
