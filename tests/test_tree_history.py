"""What went wrong in trees of this kind elsewhere, by the number of the report at SGLang.

One test per class of failure that a tree can have by itself; docs/tree.md names what is tested
elsewhere. Page 4, a window needs 3 pages; SWA ids are FULL ids plus 100.
"""

import pytest
from tree_tools import DEVICE, HOST, back_up, insert, insert_host, make_tree, residency, tokens

from hicache_ext.errors import TreeError
from hicache_ext.tree import Full, HostPaths, Mamba, RadixTree, Swa


@pytest.fixture
def tree():
    made = make_tree()
    yield made
    made.check_integrity()


def test_27291_a_window_at_another_end_than_the_match_is_no_window(tree):
    #  the window of page 5 is there, but the next prompt ends at page 4
    end = insert_host(tree, (1, 2, 3, 4, 5), range(5)).node
    with tree.window("swa", tree.match_prefix([]).node, end, [30, 31, 32]) as txn:
        txn.commit()
    assert tree.match_prefix(tokens(1, 2, 3, 4)).num_tokens == 0
    assert tree.match_prefix(tokens(1, 2, 3, 4, 5)).num_tokens == 20


def test_27550_pages_that_are_still_being_copied_count_for_nobody(tree):
    end = insert(tree, (1, 2, 3), range(3)).node
    back_up(tree, end, 50)
    tree.evict(DEVICE, {"full": 3})
    plan = tree.begin_load_back(end)
    found = tree.match_prefix(tokens(1, 2, 3))
    assert (found.num_tokens, found.num_device_tokens) == (12, 0)
    tree.commit_load_back(plan, {"full": range(3), "swa": range(3)})
    assert tree.match_prefix(tokens(1, 2, 3)).num_device_tokens == 12


def test_31443_a_prefix_without_its_window_is_kept_and_not_matched(tree):
    insert_host(tree, (1, 2, 3), range(3))
    found = tree.match_prefix(tokens(1, 2, 3))
    assert (found.num_tokens, found.num_full_tokens) == (0, 12)


@pytest.mark.parametrize("how", ["insert", "insert_host", "window", "backup", "load_back"])
def test_13483_a_page_comes_into_the_tree_once(tree, how):
    end = insert(tree, (1, 2, 3), range(3)).node
    back_up(tree, end, 50)  # FULL 50 51 52, SWA 53 54 55
    other = insert(tree, (7,), [7]).node
    graft = insert_host(tree, (8,), [80]).node
    root = tree.match_prefix([]).node
    calls = {
        "insert": lambda: insert(tree, (9,), [0]),
        "insert_host": lambda: insert_host(tree, (9,), [50], anchor=root),
        "window": lambda: tree.window("swa", root, graft, [53]).__enter__(),
        "backup": lambda: tree.commit_backup(plan, {"full": [50], "swa": [60]}),
        "load_back": lambda: tree.commit_load_back(plan, {"full": [0], "swa": [9]}),
    }
    if how == "backup":
        plan = tree.begin_backup(other)
    if how == "load_back":
        with tree.window("swa", root, graft, [90]) as txn:
            txn.commit()
        plan = tree.begin_load_back(graft)
    before = tree.show(), tree.digest
    with pytest.raises(TreeError, match="is in the tree already"):
        calls[how]()
    assert (tree.show(), tree.digest) == before


def test_36317_an_aborted_load_back_pins_nothing(tree):
    end = insert(tree, (1, 2, 3), range(3)).node
    back_up(tree, end, 50)
    tree.evict(DEVICE, {"full": 3})
    tree.abort_load_back(tree.begin_load_back(end))
    assert tree.page_counts(HOST, "full").num_protected == 0
    assert tree.evict(HOST, {"full": 3}).host["full"] == [50, 51, 52]


def test_31427_host_pages_stay_while_they_are_loaded_back(tree):
    end = insert(tree, (1, 2, 3), range(3)).node
    back_up(tree, end, 50)
    tree.evict(DEVICE, {"full": 3})
    plan = tree.begin_load_back(end)
    assert tree.evict(HOST, {"full": 9, "swa": 9}).host == {"full": [], "swa": []}
    tree.clear(HOST)
    assert tree.owned_pages(HOST, "full") == [50, 51, 52]
    tree.abort_load_back(plan)


def test_36738_device_pages_stay_while_they_are_backed_up(tree):
    insert(tree, (1, 2), [0, 1])
    end = insert(tree, (1, 2, 3, 4, 5), range(5)).node
    plan = tree.begin_backup(end)
    # SWA of 1 2 lies outside of every window and is read all the same.
    assert tree.evict(DEVICE, {"full": 9, "swa": 9}).device == {"full": [], "swa": []}
    tree.abort_backup(plan)


def write_back_tree():
    """[ 1 2 ] ── [ 3 ] ── [ 4 5 6 ] on the device; [ 1 2 ] has a state and a window of its own."""
    tree = RadixTree(4, (Full(), Swa(8), Mamba()), host_paths=HostPaths.GAPS)
    for count in (2, 3, 6):
        ids = list(range(count))
        states = [-1] * (count - 1) + [count]
        end = tree.insert(tokens(*range(1, count + 1)), {"full": ids, "swa": ids, "mamba": states})
    return tree, end.node


@pytest.mark.parametrize("component", ["swa", "mamba"])
def test_28468_an_inner_window_can_be_backed_up_before_it_becomes_a_tombstone(component):
    tree, _ = write_back_tree()
    (victim,) = tree.coldest(DEVICE, component, 1)
    assert tree.num_tokens(victim) < 24  # an inner node, not the leaf
    plan = tree.begin_backup(victim, last=1)
    pages = {name: range(60, 60 + count) for name, count in plan.num_pages.items()}
    tree.commit_backup(plan, pages)
    depth = tree.num_tokens(victim) // 4
    before = tree.match_prefix(tokens(*range(1, depth + 1))).num_tokens
    tree.match_prefix(tokens(*range(1, 7)))
    tree.evict(DEVICE, {component: 1})
    assert tree.match_prefix(tokens(*range(1, depth + 1))).num_tokens == before
    tree.check_integrity()


def test_37584_where_full_goes_on_and_no_window_does_a_chunk_should_end(tree):
    insert(tree, (1, 2, 3, 4, 5, 6), range(6), [-1, -1, -1, 103, 104, 105])
    assert tree.match_prefix(tokens(1, 2, 3, 4, 9)).num_branching_tokens == 16
    # The request computes from the start and keeps the window there: the next branch finds it.
    insert(tree, (1, 2, 3, 4), range(4), [-1, 131, 132, 133])
    found = tree.match_prefix(tokens(1, 2, 3, 4, 8))
    assert (found.num_tokens, found.num_branching_tokens) == (16, None)


def test_a_tombstone_is_recovered_inside_of_the_pages_that_a_request_still_has(tree):
    """Whole nodes inside are filled, the one at the border is divided, those before it stay."""
    insert(tree, (1, 2, 3, 4), range(4), [-1] * 4)
    insert(tree, (1, 2, 3, 4, 5), range(5), [-1] * 5)
    result = insert(tree, (1, 2, 3, 4, 5), range(5), [-1, -1, 132, 133, 134])
    assert result.released == {"full": [], "swa": []}
    assert residency(tree, 1, 2, 3, 4, 5)["swa"] == "--DDD"
    assert tree.match_prefix(tokens(1, 2, 3, 4, 5)).num_device_tokens == 20


def test_a_locked_node_is_recovered_as_well_and_its_receipt_is_still_good(tree):
    end = insert(tree, (1, 2, 3, 4), range(4), [-1] * 4).node
    receipt = tree.lock(end)
    insert(tree, (1, 2, 3, 4), range(4), [-1, 131, 132, 133])
    assert tree.evict(DEVICE, {"full": 9, "swa": 9}).device == {"full": [], "swa": []}
    tree.unlock(receipt)
    assert tree.page_counts(DEVICE, "swa").num_protected == 0


def test_27586_ids_that_have_no_place_come_back_and_nothing_leaks(tree):
    insert(tree, (1, 2, 3), range(3))
    result = insert(tree, (1, 2, 3), [10, 11, 12], [-1, 111, 112])
    assert result.released == {"full": [10, 11, 12], "swa": [111, 112]}
    assert tree.owned_pages(DEVICE, "swa") == [100, 101, 102]


def test_12_a_split_during_a_backup_leaves_both_pieces_on_the_host(tree):
    end = insert(tree, (1, 2, 3), range(3)).node
    plan = tree.begin_backup(end)
    tree.match_prefix(tokens(1))
    tree.match_prefix(tokens(1, 2))
    assert not any(tree.commit_backup(plan, {"full": range(3), "swa": range(3)}).values())
    assert residency(tree, 1, 2, 3) == {"full": "BBB", "swa": "BBB"}


def test_a_graft_stays_in_the_namespace_of_its_anchor(tree):
    anchor = tree.match_prefix([], b"lora").node
    graft = tree.insert_host(anchor, tokens(1, 2), [0, 1]).node
    assert tree.namespace(graft) == b"lora"
    assert tree.match_prefix(tokens(1, 2)).num_full_tokens == 0
    assert tree.match_prefix(tokens(1, 2), b"lora").full_node == graft
