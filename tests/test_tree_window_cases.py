"""The window commit, more cases: nodes that others use meanwhile, and a staging that breaks off.

Drawn as in test_tree_window.py: page 4, a window needs 3 pages.
"""

import pytest
from tree_tools import DEVICE, HOST, back_up, insert, insert_host, make_tree, residency, tokens


@pytest.fixture
def tree():
    made = make_tree()
    yield made
    made.check_integrity()


def commit(tree, end, pages, anchor=None):
    anchor = tree.match_prefix([]).node if anchor is None else anchor
    with tree.window("swa", anchor, end, list(pages)) as txn:
        result = txn.commit()
    assert sorted(result.attached + result.released) == sorted(pages)
    tree.check_integrity()
    return result


def test_a_window_longer_than_the_new_part_fills_old_tombstones(tree):
    #  [ 1 2 3 4 ] - was there, [ 5 ] is new: the old node is divided behind 2
    insert_host(tree, (1, 2, 3, 4), range(4))
    graft = insert_host(tree, (1, 2, 3, 4, 5), range(4, 9))
    assert graft.num_present_tokens == 16
    assert commit(tree, graft.node, [30, 31, 32]).attached == [30, 31, 32]
    assert residency(tree, 1, 2, 3, 4, 5)["swa"] == "--HHH"
    assert tree.match_prefix(tokens(1, 2, 3, 4, 5)).node == graft.node


def test_a_node_in_the_middle_that_has_its_window_keeps_it(tree):
    #  [ 1 2 ] - ── [ 3 ] H ── [ 4 ] -    window s2 s3 s4: s2 and s4 join, s3 goes back
    insert_host(tree, (1, 2), range(2))
    middle = insert_host(tree, (1, 2, 3), range(2, 5)).node
    commit(tree, middle, [40])
    end = insert_host(tree, (1, 2, 3, 4), range(5, 9)).node
    result = commit(tree, end, [30, 31, 32])
    assert (result.attached, result.released) == ([30, 32], [31])
    assert tree.path_pages(end, "swa", HOST) == [-1, 30, 40, 32]
    assert tree.match_prefix(tokens(1, 2, 3, 4)).node == end


def test_a_node_that_has_its_window_is_not_divided(tree):
    #  [ 1 2 3 4 ] H    window s3 s4: nothing to do, and no split
    end = insert_host(tree, (1, 2, 3, 4), range(4)).node
    commit(tree, end, range(40, 44))
    num_nodes = len(tree._state.nodes)
    assert commit(tree, end, [30, 31]).released == [30, 31]
    assert len(tree._state.nodes) == num_nodes


def test_the_anchor_is_the_border_even_inside_of_a_node_that_could_take_more(tree):
    #  [ 1 2 3 ] - is the anchor, [ 4 ] is new: the anchor's own tombstone stays
    anchor = insert_host(tree, (1, 2, 3), range(3)).node
    end = insert_host(tree, (4,), [3], anchor=anchor).node
    result = commit(tree, end, [30, 31, 32], anchor)
    assert (result.attached, result.released) == ([32], [30, 31])
    assert residency(tree, 1, 2, 3, 4)["swa"] == "---H"


def test_a_branch_that_came_meanwhile_is_kept(tree):
    #  the span was 1 2 3 4; before its window comes, 1 2 9 divides it
    end = insert_host(tree, (1, 2, 3, 4), range(4)).node
    insert(tree, (1, 2, 9), range(3))
    assert commit(tree, end, [30, 31, 32]).attached == [30, 31, 32]
    assert residency(tree, 1, 2, 3, 4) == {"full": "BBHH", "swa": "DBHH"}
    assert residency(tree, 1, 2, 9)["full"] == "BBD"


def test_locks_on_the_divided_node_hold_both_pieces(tree):
    end = insert_host(tree, (1, 2, 3, 4, 5), range(5)).node
    receipt = tree.lock(end, HOST)
    commit(tree, end, [30, 31, 32])
    assert tree.evict(HOST, {"full": 9, "swa": 9}).host == {"full": [], "swa": []}
    tree.unlock(receipt)
    assert tree.evict(HOST, {"full": 9}).host["swa"] == [30, 31, 32]


def test_a_load_back_that_was_begun_before_survives_the_split(tree):
    end = insert(tree, (1, 2, 3, 4, 5), range(5)).node  # comes as [1 2] and [3 4 5]
    back_up(tree, end, 50)
    tree.evict(DEVICE, {"full": 9})
    tree.evict(HOST, {"swa": 1})  # the host loses the window of [1 2]
    plan = tree.begin_load_back(end)
    upper = tree.match_prefix(tokens(1, 2)).full_node
    assert commit(tree, upper, [30]).attached == [30]  # divides [1 2]
    tree.commit_load_back(plan, {"full": range(5), "swa": range(3)})
    assert residency(tree, 1, 2, 3, 4, 5) == {"full": "BBBBB", "swa": "-HBBB"}


def test_committed_pages_can_be_evicted_and_the_ledger_knows_them(tree):
    end = insert_host(tree, (1, 2, 3, 4, 5), range(5)).node
    commit(tree, end, [30, 31, 32])
    assert tree.owned_pages(HOST, "swa") == [30, 31, 32]
    assert tree.evict(HOST, {"swa": 1}).host == {"full": [2, 3, 4, 0, 1], "swa": [30, 31, 32]}
    assert tree.owned_pages(HOST, "swa") == []


def test_the_log_has_one_step_per_node_of_the_window(tree):
    insert_host(tree, (1, 2), range(2))
    insert_host(tree, (1, 2, 3), range(2, 5))
    end = insert_host(tree, range(1, 100), range(100, 199)).node
    with tree.window("swa", tree.match_prefix([]).node, end, [30, 31, 32]) as txn:
        assert len(txn._steps) == 1  # the node of 96 pages, not the path
    with tree.window("swa", tree.match_prefix([]).node, end, range(30, 128)) as txn:
        assert len(txn._steps) == 3
        assert txn.commit().attached == list(range(30, 128))


@pytest.mark.parametrize("broken_step", [1, 2, 3])
def test_a_staging_that_breaks_off_leaves_no_trace(tree, monkeypatch, broken_step):
    #  [ 1 2 3 ] ── [ 4 ] ── [ 5 ]: the second or third node is not reached, or the first is
    for count in (3, 4, 5):
        end = insert_host(tree, range(1, count + 1), range(10 * count, 11 * count)).node
    root = tree.match_prefix([]).node
    before = tree.digest, tree.show()
    state, calls = type(tree._state), []
    attach = state.attach

    def breaks(self, *args):
        calls.append(args)
        if len(calls) == broken_step:
            raise MemoryError
        attach(self, *args)

    monkeypatch.setattr(state, "attach", breaks)
    with (
        pytest.raises(MemoryError),
        tree.window("swa", root, end, [30, 31, 32]) as txn,
    ):
        txn.stage()
    monkeypatch.undo()
    assert (tree.digest, tree.show()) == before
    assert (txn.result.attached, txn.result.released) == ([], [30, 31, 32])
    tree.check_integrity()
    assert commit(tree, end, [30, 31, 32]).attached == [30, 31, 32]
