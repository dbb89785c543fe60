"""Window-aware eviction: what no end point needs goes first, the newest long prefix's window last.

Page 4, a window needs 3 pages. SWA ids are FULL ids plus 100.
"""

import pytest
from tree_tools import DEVICE, HOST, back_up, insert, make_tree, residency, tokens

from hicache_ext.tree import Full, RadixTree, Strategy, Swa


def with_strategy(strategy):
    return RadixTree(4, (Full(), Swa(10)), strategy=strategy)


def long_prefix(tree):
    """Three turns of a chat, 4 pages each, then one that begins with the first turn."""
    for count in (4, 8, 12):
        insert(tree, range(1, count + 1), range(count))


@pytest.mark.parametrize("strategy", [*Strategy])
def test_one_evicted_page_does_not_unmatch_the_newest_long_prefix(strategy):
    tree = with_strategy(strategy)
    insert(tree, range(1, 13), range(12))  # comes as [1 .. 9] and [10 11 12]
    freed = tree.evict(DEVICE, {"swa": 1}).device
    assert freed == {"full": [], "swa": list(range(100, 109))}
    assert tree.match_prefix(tokens(*range(1, 13))).num_device_tokens == 48
    tree.check_integrity()


@pytest.mark.parametrize("strategy", [*Strategy])
def test_pages_before_every_window_go_before_any_window(strategy):
    """Also when their prefix is newer, or hit more often, than the other's window."""
    tree = with_strategy(strategy)
    insert(tree, (21, 22, 23), range(20, 23))
    insert(tree, range(1, 13), range(12))
    for _ in range(3):
        tree.match_prefix(tokens(*range(1, 13)))
    assert tree.evict(DEVICE, {"swa": 9}).device == {"full": [], "swa": list(range(100, 109))}
    for prompt in (range(21, 24), range(1, 13)):
        assert tree.match_prefix(tokens(*prompt)).num_device_tokens == 4 * len(prompt)
    tree.check_integrity()


def test_windows_of_earlier_turns_go_before_the_last_one():
    tree = make_tree()
    long_prefix(tree)
    order = []
    while freed := tree.evict(DEVICE, {"swa": 1}).device["swa"]:
        order.append([page - 100 for page in freed])
        if order[-1] != [9, 10, 11]:
            assert tree.match_prefix(tokens(*range(1, 13))).num_tokens == 48
    # Page 1 of each turn was needed by no end; then the turns' windows, the newest last.
    assert order == [[0], [4], [8], [1, 2, 3], [5, 6, 7], [9, 10, 11]]
    tree.check_integrity()


def test_a_prompt_that_branches_off_makes_its_window_needed():
    tree = make_tree()
    insert(tree, range(1, 13), range(12))
    tree.match_prefix(tokens(*range(1, 7), 99))  # ends in the middle of the long prefix
    assert tree.evict(DEVICE, {"swa": 1}).device["swa"] == [106, 107, 108]  # behind its end
    assert tree.match_prefix(tokens(*range(1, 7))).num_device_tokens == 24


def test_the_host_goes_by_the_same_order():
    tree = make_tree()
    end = insert(tree, range(1, 13), range(12)).node
    back_up(tree, end, 50)
    tree.evict(DEVICE, {"full": 12})
    freed = tree.evict(HOST, {"swa": 1}).host
    assert (freed["full"], len(freed["swa"])) == ([], 9)
    assert tree.match_prefix(tokens(*range(1, 13))).num_tokens == 48
    assert residency(tree, *range(1, 13))["swa"] == "-" * 9 + "HHH"


def test_equal_calls_have_equal_victims_whatever_the_page_ids():
    orders = []
    for shift in (0, 1000):
        tree = make_tree()
        insert(tree, range(1, 13), [page + shift for page in range(12)])
        insert(tree, (1, 2, 30), [shift, shift + 1, shift + 30])
        tree.match_prefix(tokens(*range(1, 8)))
        freed = [tree.evict(DEVICE, {"swa": 2, "full": 1}).device for _ in range(4)]
        orders.append([[page - shift for page in f["full"] + f["swa"]] for f in freed])
    assert orders[0] == orders[1]


def test_of_pages_that_no_end_needed_the_oldest_go_first_however_deep():
    tree = make_tree()
    insert(tree, range(1, 13), range(12))
    insert(tree, range(21, 29), range(20, 28))
    assert tree.evict(DEVICE, {"swa": 1}).device["swa"] == list(range(100, 109))
    assert tree.evict(DEVICE, {"swa": 1}).device["swa"] == list(range(120, 125))


def test_both_pieces_of_a_divided_window_are_as_needed_as_it_was():
    tree = make_tree()
    insert(tree, (1, 2, 3), range(3))
    insert(tree, (1, 41, 42, 43, 44), [0, *range(41, 45)])  # divides it; its own window lies below
    order = [tree.evict(DEVICE, {"swa": 1}).device["swa"] for _ in range(3)]
    assert order == [[141], [100], [101, 102]]
