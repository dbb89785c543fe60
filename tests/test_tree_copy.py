"""Backup and load-back: what they list, what may happen before the commit, what comes back."""

import pytest
from tree_tools import DEVICE, HOST, back_up, insert, insert_host, make_tree, residency, tokens

from hicache_ext.errors import TreeError


@pytest.fixture
def tree():
    made = make_tree()
    yield made
    made.check_integrity()


def demoted(tree, pages=(1, 2, 3, 4, 5)):
    """A path of one node that is on the host only, SWA included; its end."""
    end = insert(tree, pages, range(len(pages))).node
    back_up(tree, end, 50)
    tree.evict(DEVICE, {"full": len(pages)})
    return end


# --- backup ---------------------------------------------------------------------------------------


def test_a_backup_lists_what_the_host_lacks_root_first(tree):
    insert(tree, (1, 2), [0, 1])
    end = insert(tree, (1, 2, 3, 4), range(4), [100, 101, -1, 103]).node
    plan = tree.begin_backup(end)
    assert [(s.component, s.pages) for s in plan.spans] == [
        *[("full", [0, 1]), ("swa", [100, 101])],
        *[("full", [2]), ("full", [3]), ("swa", [103])],
    ]
    assert plan.num_pages == {"full": 4, "swa": 3}
    assert plan.device_pages == {"full": [0, 1, 2, 3], "swa": [100, 101, 103]}
    unused = tree.commit_backup(plan, {"full": [50, 51, 52, 53], "swa": [60, 61, 62]})
    assert unused == {"full": [], "swa": []}
    assert tree.path_pages(end, "swa", HOST) == [60, 61, -1, 62]
    assert tree.begin_backup(end) is None
    assert tree.begin_backup(tree.match_prefix([]).node) is None


def test_a_pending_backup_pins_every_page_that_it_reads(tree):
    #  SWA pages of 1 2 lie outside of the window, but the copy reads them
    insert(tree, (1, 2), [0, 1])
    end = insert(tree, (1, 2, 3, 4, 5), range(5)).node
    plan = tree.begin_backup(end)
    assert tree.evict(DEVICE, {"full": 9, "swa": 9}).device == {"full": [], "swa": []}
    tree.abort_backup(plan)
    assert len(tree.evict(DEVICE, {"full": 9}).device["full"]) == 5


def test_splits_between_begin_and_commit(tree):
    #  [ 1 2 3 4 5 ] begun, then [ 1 2 ] ── [ 3 ] ── [ 4 5 ]
    end = insert(tree, (1, 2, 3, 4, 5), range(5)).node
    plan = tree.begin_backup(end)
    tree.match_prefix(tokens(1, 2, 3))
    insert(tree, (1, 2, 9), [0, 1, 9])
    tree.check_integrity()
    tree.commit_backup(plan, {"full": range(50, 55), "swa": range(60, 65)})
    assert tree.path_pages(end, "full", HOST) == [50, 51, 52, 53, 54]
    assert tree.path_pages(end, "swa", HOST) == [60, 61, 62, 63, 64]


def test_what_somebody_else_backed_up_meanwhile_comes_back(tree):
    end = insert(tree, (1, 2, 3), range(3)).node
    first, second = tree.begin_backup(end), tree.begin_backup(end)
    tree.commit_backup(second, {"full": [50, 51, 52], "swa": [60, 61, 62]})
    unused = tree.commit_backup(first, {"full": [70, 71, 72], "swa": [80, 81, 82]})
    assert unused == {"full": [70, 71, 72], "swa": [80, 81, 82]}


def test_no_host_page_below_a_parent_without(tree):
    """The upper part loses its host pages meanwhile: the lower one must not get any (I2)."""
    top = insert(tree, (1, 2), [0, 1]).node
    first = tree.begin_backup(top)
    end = insert(tree, (1, 2, 3), range(3)).node
    tree.commit_backup(first, {"full": [50, 51], "swa": [60, 61]})
    second = tree.begin_backup(end)
    assert second.num_pages == {"full": 1, "swa": 1}
    tree.clear(HOST)
    unused = tree.commit_backup(second, {"full": [52], "swa": [62]})
    assert unused == {"full": [52], "swa": [62]}
    assert residency(tree, 1, 2, 3) == {"full": "DDD", "swa": "DDD"}


# --- load-back ------------------------------------------------------------------------------------


def test_a_load_back_takes_full_along_the_path_and_swa_in_the_window(tree):
    insert(tree, (1, 2), [0, 1])
    end = demoted(tree)
    plan = tree.begin_load_back(end)
    assert plan.num_pages == {"full": 5, "swa": 3}
    assert plan.host_pages == {
        "full": tree.path_pages(end, "full", HOST),
        "swa": tree.path_pages(end, "swa", HOST, last=3),
    }
    assert not any(tree.commit_load_back(plan, {"full": range(5), "swa": range(3)}).values())
    assert residency(tree, 1, 2, 3, 4, 5) == {"full": "BBBBB", "swa": "HHBBB"}
    assert tree.match_prefix(tokens(1, 2, 3, 4, 5)).device_node == end
    assert tree.begin_load_back(end) is None


def test_only_what_is_missing_is_loaded(tree):
    insert(tree, (1, 2), [0, 1])
    end = insert(tree, (1, 2, 3), range(3)).node
    back_up(tree, end, 50)
    tree.evict(DEVICE, {"full": 1})
    plan = tree.begin_load_back(end)
    assert [(s.component, len(s.pages)) for s in plan.spans] == [("full", 1), ("swa", 1)]
    tree.abort_load_back(plan)


def test_a_pending_load_back_pins_both_tiers_and_survives_splits(tree):
    end = demoted(tree)
    plan = tree.begin_load_back(end)
    tree.match_prefix(tokens(1, 2, 3))
    assert tree.evict(HOST, {"full": 9, "swa": 9}).host["full"] == []
    tree.check_integrity()
    tree.commit_load_back(plan, {"full": range(5), "swa": range(2, 5)})
    assert tree.path_pages(end, "full", DEVICE) == [0, 1, 2, 3, 4]
    assert tree.path_pages(end, "swa", DEVICE) == [-1, -1, 2, 3, 4]


def test_what_an_insert_brought_back_meanwhile_is_not_needed(tree):
    end = demoted(tree)
    plan = tree.begin_load_back(end)
    insert(tree, (1, 2), [20, 21])
    unused = tree.commit_load_back(plan, {"full": range(5), "swa": range(2, 5)})
    assert unused == {"full": [0, 1], "swa": []}
    assert tree.path_pages(end, "full", DEVICE) == [20, 21, 2, 3, 4]


def test_of_a_host_window_longer_than_needed_only_the_window_is_loaded(tree):
    #  one node [1 .. 5] with 5 SWA pages on the host, a window needs 3: it is divided behind 2
    end = insert_host(tree, (1, 2, 3, 4, 5), range(5)).node
    with tree.window("swa", tree.match_prefix([]).node, end, range(30, 35)) as txn:
        txn.commit()
    num_nodes = len(tree._state.nodes)
    plan = tree.begin_load_back(end)
    assert plan.host_pages == {"full": [0, 1, 2, 3, 4], "swa": [32, 33, 34]}
    assert len(tree._state.nodes) == num_nodes + 1
    tree.check_integrity()
    tree.commit_load_back(plan, {"full": range(5), "swa": range(3)})
    assert residency(tree, 1, 2, 3, 4, 5) == {"full": "BBBBB", "swa": "HHBBB"}


def test_a_node_whose_window_is_on_no_tier_cannot_be_loaded(tree):
    end = insert_host(tree, (1, 2), [0, 1]).node
    before = tree.digest
    with pytest.raises(TreeError, match=r"its swa pages at tokens 0\.\.8 are on no tier"):
        tree.begin_load_back(end)
    assert tree.digest == before


# --- misuse ---------------------------------------------------------------------------------------


def test_plans_are_closed_once_and_by_the_right_call(tree):
    end = insert(tree, (1,), [0]).node
    plan = tree.begin_backup(end)
    with pytest.raises(TreeError, match="no open LoadBackPlan"):
        tree.abort_load_back(plan)
    tree.abort_backup(plan)
    for misuse in (plan, None):
        with pytest.raises(TreeError, match="no open BackupPlan"):
            tree.abort_backup(misuse)
        with pytest.raises(TreeError, match="no open BackupPlan"):
            tree.commit_backup(misuse, {"full": [50], "swa": [60]})


@pytest.mark.parametrize(
    ("pages", "message"),
    [
        ({"full": [50, 51]}, "0 page ids for 2 pages"),
        ({"full": [50], "swa": [60, 61]}, "1 page ids for 2 pages"),
        ({"full": [50, 50], "swa": [60, 61]}, "page 50 is named twice"),
        ({"full": [50, 40], "swa": [60, 61]}, "page 40 is in the tree already"),
        ({"full": [50, -1], "swa": [60, 61]}, "page id -1 at position 1"),
        ({"full": [50, 51], "swa": [60, 61], "x": []}, "'x' is unknown"),
    ],
)
def test_wrong_target_pages_are_refused_and_the_plan_stays_open(tree, pages, message):
    insert_host(tree, (9,), [40])
    end = insert(tree, (1, 2), [0, 1]).node
    plan = tree.begin_backup(end)
    before = tree.digest, tree.show()
    with pytest.raises(TreeError, match=message):
        tree.commit_backup(plan, pages)
    assert (tree.digest, tree.show()) == before
    tree.abort_backup(plan)
