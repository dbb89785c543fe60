"""The window transaction. Page 4, window 3 pages; the prompt is pages 1 2 3 .., s3 is the window
page of 3.

Each case draws the host pages of SWA along the path: `-` none, `H` there.
"""

import pytest
from tree_tools import HOST, back_up, insert, insert_host, make_tree, residency, tokens

from hicache_ext.errors import TreeError


class Broken(Exception):
    """What a caller raises inside of the block."""


@pytest.fixture
def tree():
    made = make_tree()
    yield made
    made.check_integrity()


def commit(tree, anchor, node, pages):
    with tree.window("swa", anchor, node, pages) as txn:
        txn.stage()
        result = txn.commit()
    assert txn.result is result
    assert sorted(result.attached + result.released) == sorted(pages)
    tree.check_integrity()
    return result


def root_of(tree):
    return tree.match_prefix([]).node


def host_swa(tree, *pages):
    return residency(tree, *pages)["swa"]


def test_exact_fit_on_a_new_graft(tree):
    #  graft [ 1 2 3 ]   window s1 s2 s3   ->  H H H, no split
    end = insert_host(tree, (1, 2, 3), range(3)).node
    result = commit(tree, root_of(tree), end, [30, 31, 32])
    assert (result.attached, result.released) == ([30, 31, 32], [])
    match = tree.match_prefix(tokens(1, 2, 3))
    assert match.node == end and match.num_tokens == 12


def test_a_window_that_starts_inside_an_edge_splits_it(tree):
    #  graft [ 1 2 3 4 5 ]   window s3 s4 s5   ->  [ 1 2 ] - -  [ 3 4 5 ] H H H
    end = insert_host(tree, (1, 2, 3, 4, 5), range(5)).node
    result = commit(tree, root_of(tree), end, [30, 31, 32])
    assert result.attached == [30, 31, 32]
    assert host_swa(tree, 1, 2, 3, 4, 5) == "--HHH"
    assert tree.match_prefix(tokens(1, 2, 3, 4, 5)).node == end
    assert tree.path_pages(end, "swa", HOST) == [-1, -1, 30, 31, 32]


def test_a_window_over_several_nodes(tree):
    #  [ 1 2 3 ] ── [ 4 ] ── [ 5 ]   window s3 s4 s5: the first is split behind 2
    insert_host(tree, (1, 2, 3), range(3))
    insert_host(tree, (1, 2, 3, 4), range(4))
    end = insert_host(tree, (1, 2, 3, 4, 5), range(5)).node
    assert commit(tree, root_of(tree), end, [30, 31, 32]).attached == [30, 31, 32]
    assert host_swa(tree, 1, 2, 3, 4, 5) == "--HHH"


def test_nodes_that_have_a_window_keep_it(tree):
    #  [ 1 2 3 ] H  ── [ 4 ] -    window s2 s3 s4: s2 and s3 are released, no split
    old = insert_host(tree, (1, 2, 3), range(3)).node
    commit(tree, root_of(tree), old, [40, 41, 42])
    end = insert_host(tree, (1, 2, 3, 4), range(4)).node
    result = commit(tree, root_of(tree), end, [30, 31, 32])
    assert (result.attached, result.released) == ([32], [30, 31])
    assert tree.path_pages(end, "swa", HOST) == [40, 41, 42, 32]


def test_everything_present_already(tree):
    end = insert_host(tree, (1, 2, 3), range(3)).node
    commit(tree, root_of(tree), end, [40, 41, 42])
    result = commit(tree, root_of(tree), end, [30, 31, 32])
    assert (result.attached, result.released) == ([], [30, 31, 32])


def test_an_old_tombstone_is_filled_when_all_full_pages_were_present(tree):
    #  The window is right-aligned at the end of the span, not at what was new of it.
    insert_host(tree, (1, 2, 3, 4), range(4))
    again = insert_host(tree, (1, 2, 3, 4), range(4))
    assert again.num_present_tokens == 16
    assert commit(tree, root_of(tree), again.node, [30, 31, 32]).attached == [30, 31, 32]
    assert host_swa(tree, 1, 2, 3, 4) == "-HHH"


def test_pages_above_the_anchor_are_released(tree):
    #  anchor [ 1 2 ] ── [ 3 4 ]    window s2 s3 s4: s2 lies above the anchor's end
    anchor = insert_host(tree, (1, 2), [0, 1]).node
    end = insert_host(tree, (3, 4), [2, 3], anchor=anchor).node
    result = commit(tree, anchor, end, [30, 31, 32])
    assert (result.attached, result.released) == ([31, 32], [30])
    assert host_swa(tree, 1, 2, 3, 4) == "--HH"


def test_pages_above_the_root_are_released(tree):
    end = insert_host(tree, (1, 2), [0, 1]).node
    result = commit(tree, root_of(tree), end, [30, 31, 32, 33])
    assert (result.attached, result.released) == ([32, 33], [30, 31])


def test_a_short_sequence_from_the_root_is_its_own_window(tree):
    end = insert_host(tree, (1, 2), [0, 1]).node
    assert commit(tree, root_of(tree), end, [30, 31]).attached == [30, 31]
    assert tree.match_prefix(tokens(1, 2)).num_tokens == 8


def test_a_dropped_graft_and_an_empty_span_release_all(tree):
    anchor = insert_host(tree, (1,), [0]).node
    assert commit(tree, anchor, None, [30, 31]).released == [30, 31]
    assert commit(tree, anchor, anchor, [30, 31]).released == [30, 31]
    assert commit(tree, anchor, anchor, []).attached == []


def test_a_node_without_host_pages_takes_no_window(tree):
    end = insert(tree, (1, 2, 3), range(3)).node
    assert commit(tree, root_of(tree), end, [30, 31, 32]).released == [30, 31, 32]


def test_a_host_window_beside_one_on_the_device(tree):
    end = insert(tree, (1, 2, 3), range(3)).node
    insert_host(tree, (1, 2, 3), range(50, 53))
    assert commit(tree, root_of(tree), end, [30, 31, 32]).attached == [30, 31, 32]
    assert host_swa(tree, 1, 2, 3) == "BBB"


# --- rollback -------------------------------------------------------------------------------------


def snapshot(tree):
    """All that ranks must agree on, and the next id."""
    return tree.digest, tree.show(), tree._state.next_id, tree._state.clock


def abandon(tree, anchor, node, pages, how):
    with tree.window("swa", anchor, node, pages) as txn:
        if how != "unstaged":
            txn.stage()
            tree.check_integrity()
        if how == "raise":
            raise Broken
    return txn


@pytest.mark.parametrize("how", ["unstaged", "staged", "raise"])
def test_a_rollback_leaves_no_trace(tree, how):
    #  [ 1 2 3 ] H ── [ 4 5 6 ] -: the window splits the second and finds the first full
    old = insert_host(tree, (1, 2, 3), range(3)).node
    commit(tree, root_of(tree), old, [40, 41, 42])
    end = insert_host(tree, (1, 2, 3, 4, 5, 6), range(6)).node
    receipt = tree.lock(end, HOST)
    tree.keys(end)
    before, root = snapshot(tree), root_of(tree)
    before = snapshot(tree)
    if how == "raise":
        with pytest.raises(Broken):
            abandon(tree, root, end, [30, 31], how)
    else:
        result = abandon(tree, root, end, [30, 31], how).result
        assert (result.attached, result.released) == ([], [30, 31])
    assert snapshot(tree) == before
    assert tree.owned_pages(HOST, "swa") == [40, 41, 42]
    tree.check_integrity()
    tree.unlock(receipt)
    assert commit(tree, root, end, [30, 31]).attached == [30, 31]  # the pages are nobody's


def test_a_rank_that_rolled_back_equals_one_that_never_opened(tree):
    other = make_tree()
    ends = [insert_host(t, (1, 2, 3, 4, 5), range(5)).node for t in (tree, other)]
    abandon(tree, 0, ends[0], [30, 31, 32], "staged")
    for t, end in zip((tree, other), ends, strict=True):
        commit(t, 0, end, [30, 31, 32])
        insert(t, (1, 9), [7, 8])
    assert tree.digest == other.digest and tree.show() == other.show()


def test_a_split_while_a_backup_is_pending_is_undone_as_well(tree):
    end = insert(tree, (1, 2, 3, 4, 5), range(5), [-1] * 5).node
    insert_host(tree, (1, 2, 3, 4, 5), range(50, 55))
    insert(tree, (1, 2, 3, 4, 5), range(5))  # now SWA on the device, not on the host
    plan = tree.begin_backup(end)
    abandon(tree, root_of(tree), end, [30, 31, 32], "staged")
    commit(tree, root_of(tree), end, [30, 31, 32])
    unused = tree.commit_backup(plan, {"swa": [60, 61, 62, 63, 64]})
    assert unused["swa"] == [62, 63, 64]  # the window came first; its fragment keeps what it has
    assert tree.path_pages(end, "swa", HOST) == [60, 61, 30, 31, 32]


# --- misuse ---------------------------------------------------------------------------------------


def test_no_other_call_may_change_the_tree_meanwhile(tree):
    end = insert_host(tree, (1, 2, 3), range(3)).node
    receipt = tree.lock(end)
    with tree.window("swa", 0, end, [30, 31, 32]) as txn:
        for call in (
            lambda: tree.match_prefix(tokens(1)),
            lambda: insert_host(tree, (9,), [9], anchor=0),
            lambda: tree.evict(HOST, {"full": 1}),
            lambda: tree.lock(end),
            lambda: tree.unlock(receipt),
            lambda: tree.begin_backup(end),
            lambda: tree.window("swa", 0, end, []),
        ):
            with pytest.raises(TreeError, match="window transaction is open"):
                call()
        assert txn.commit().attached == [30, 31, 32]
    tree.unlock(receipt)


def test_a_transaction_is_used_once_and_in_order(tree):
    end = insert_host(tree, (1,), [0]).node
    txn = tree.window("swa", 0, end, [30])
    with pytest.raises(TreeError, match="not open"):
        txn.stage()
    with txn:
        txn.stage()
        with pytest.raises(TreeError, match="staged already"):
            txn.stage()
        txn.commit()
        with pytest.raises(TreeError, match="not open"):
            txn.commit()
    with pytest.raises(TreeError, match="closed"), txn:
        pass


@pytest.mark.parametrize(
    ("pages", "message"),
    [
        ([30, 30], "page 30 is named twice"),
        ([30, 40], "page 40 is in the tree already"),
        ([30, -1], "page id -1 at position 1"),
        ([30, 1.5], "64-bit integers"),
    ],
)
def test_pages_that_cannot_be_taken_are_refused_and_stay_with_the_caller(tree, pages, message):
    old = insert_host(tree, (8,), [8]).node
    commit(tree, 0, old, [40])
    end = insert_host(tree, (1, 2), [0, 1]).node
    before = snapshot(tree)
    with pytest.raises(TreeError, match=message), tree.window("swa", 0, end, pages):
        pass
    assert snapshot(tree) == before


def test_a_window_needs_a_node_below_its_anchor_and_a_component_that_has_windows(tree):
    left = insert_host(tree, (1,), [0]).node
    right = insert_host(tree, (2,), [1]).node
    with pytest.raises(TreeError, match="not at or below"), tree.window("swa", left, right, [30]):
        pass
    with pytest.raises(TreeError, match="is the base"):
        tree.window("full", left, left, [30])
    with pytest.raises(TreeError, match="'mamba' is unknown"):
        tree.window("mamba", left, left, [30])
    with pytest.raises(TreeError, match="node 99 does not exist"), tree.window("swa", 0, 99, [30]):
        pass


def test_backed_up_windows_and_read_ones_do_not_mix(tree):
    """A backup of the device window and a window from L3 for one node: one of them is kept."""
    end = insert(tree, (1, 2, 3), range(3)).node
    back_up(tree, end, 50)
    assert commit(tree, 0, end, [30, 31, 32]).released == [30, 31, 32]
