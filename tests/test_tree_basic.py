"""Match, insert and insert_host on a few pages, with the page ids of each case drawn."""

import pytest
from tree_tools import (
    DEVICE,
    HOST,
    PAGE,
    back_up,
    insert,
    insert_host,
    make_tree,
    residency,
    tokens,
)


@pytest.fixture
def tree():
    made = make_tree()
    yield made
    made.check_integrity()


# --- match ----------------------------------------------------------------------------------------


def test_insert_then_match_gives_the_pages_back(tree):
    result = insert(tree, (1, 2, 3), [7, 8, 9])
    assert (result.num_tokens, result.num_present_tokens) == (12, 0)
    assert result.released == {"full": [], "swa": []}
    match = tree.match_prefix([*tokens(1, 2, 3, 4), 1])
    assert match.node == match.device_node == match.full_node == result.node
    assert match.num_tokens == 12 and match.num_host_tokens == 0
    assert tree.path_pages(match.node, "full", DEVICE) == [7, 8, 9]
    assert tree.path_pages(match.node, "swa", DEVICE, last=2) == [108, 109]
    assert tree.path_pages(match.node, "swa", HOST) == [-1, -1, -1]


def test_an_unknown_prompt_matches_its_root(tree):
    insert(tree, (1, 2), [0, 1])
    match = tree.match_prefix(tokens(5))
    assert tree.num_tokens(match.node) == match.num_tokens == match.num_full_tokens == 0
    assert tree.path_pages(match.node, "full", DEVICE) == [] and tree.keys(match.node) == []


def test_a_match_inside_an_edge_splits_and_the_old_node_is_the_suffix(tree):
    #  before  [ 1 2 3 ] whole          after  [ 1 2 ] part ── [ 3 ] whole
    whole = insert(tree, (1, 2, 3), [7, 8, 9]).node
    part = tree.match_prefix(tokens(1, 2, 9))
    assert part.node != whole and part.num_tokens == 8
    assert tree.path_pages(part.node, "full", DEVICE) == [7, 8]
    assert tree.path_pages(whole, "full", DEVICE) == [7, 8, 9]


def test_tokens_that_do_not_fill_a_page_do_not_count(tree):
    insert(tree, (1, 2), [0, 1])
    assert tree.match_prefix(tokens(1, 2)[:-1]).num_tokens == PAGE
    assert tree.match_prefix(tokens(1)[:-1]).num_tokens == 0


def test_a_window_with_a_tombstone_in_it_ends_no_match(tree):
    #  pages  1 2 3 | 4 5 6      SWA on 4 5 6 only: one whole window, at the end of page 6
    end = insert(tree, (1, 2, 3, 4, 5, 6), range(6), [-1, -1, -1, 3, 4, 5])
    assert tree.match_prefix(tokens(1, 2, 3, 4, 5, 6)).node == end.node
    short = tree.match_prefix(tokens(1, 2, 3, 4, 5))  # two pages since the tombstone
    assert short.num_tokens == 0 and short.num_full_tokens == 20


def test_a_sequence_shorter_than_the_window_is_its_own_window(tree):
    insert(tree, (1, 2), [0, 1])
    assert tree.match_prefix(tokens(1)).num_tokens == PAGE
    assert tree.match_prefix(tokens(1, 2)).num_tokens == 2 * PAGE


def test_device_best_and_best_come_from_one_walk(tree):
    #  pages  1 2 3 4    all on both tiers, then 3 4 demoted: the host carries the match on
    end = insert(tree, (1, 2, 3, 4), range(4)).node
    tree.match_prefix(tokens(1, 2))
    back_up(tree, end, 50)
    tree.evict(DEVICE, {"full": 1})
    match = tree.match_prefix(tokens(1, 2, 3, 4))
    assert residency(tree, 1, 2, 3, 4) == {"full": "BBHH", "swa": "BBHH"}
    assert (match.num_tokens, match.num_device_tokens, match.num_host_tokens) == (16, 8, 16)
    assert match.device_node != match.node == match.host_node == end


def test_a_window_may_be_on_the_device_in_part_and_on_the_host_for_the_rest(tree):
    #  pages  1 2 3 | 4 5 6    window of 6: page 4 on the host only, 5 and 6 on the device
    end = insert(tree, (1, 2, 3, 4, 5, 6), range(6), [-1, -1, -1, 3, 4, 5]).node
    back_up(tree, end, 50)
    tree.match_prefix(tokens(1, 2, 3, 4))
    tree.match_prefix(tokens(1, 2, 3, 4, 5, 6))
    tree.evict(DEVICE, {"swa": 1})
    assert residency(tree, 1, 2, 3, 4, 5, 6) == {"full": "BBBBBB", "swa": "---HBB"}
    match = tree.match_prefix(tokens(1, 2, 3, 4, 5, 6))
    assert (match.num_tokens, match.num_device_tokens) == (24, 0)


def test_namespaces_share_nothing(tree):
    insert(tree, (1, 2), [0, 1])
    match = tree.match_prefix(tokens(1, 2), b"lora")
    assert match.num_tokens == 0 and tree.namespace(match.node) == b"lora"
    other = tree.insert(tokens(1, 2), {"full": [2, 3]}, b"lora")
    plain = tree.match_prefix(tokens(1, 2)).node
    assert tree.namespace(other.node) == b"lora" and tree.namespace(plain) == b""
    assert tree.keys(other.node)[0] != tree.keys(plain)[0]


# --- insert ---------------------------------------------------------------------------------------


def test_ids_that_the_tree_holds_may_come_again_and_others_are_released(tree):
    insert(tree, (1, 2, 3), [0, 1, 2])
    again = insert(tree, (1, 2, 3, 4), [0, 1, 2, 3])
    assert again.released == {"full": [], "swa": []} and again.num_present_tokens == 12
    double = insert(tree, (1, 2, 3, 4), [10, 1, 12, 13])
    assert double.released == {"full": [10, 12, 13], "swa": [110, 112, 113]}
    assert tree.owned_pages(DEVICE, "full") == [0, 1, 2, 3]


def test_holes_divide_new_nodes_so_that_a_value_is_the_whole_node(tree):
    insert(tree, (1, 2, 3, 4, 5), range(5), [-1, 21, 22, -1, 24])
    assert residency(tree, 1, 2, 3, 4, 5) == {"full": "DDDDD", "swa": "-DD-D"}


def test_insert_fills_tombstones_for_which_it_has_pages(tree):
    #  known  SWA - - - D D D       again with SWA for 2 and 3: the node [1 2 3] is split behind 1
    end = insert(tree, (1, 2, 3, 4, 5, 6), range(6), [-1, -1, -1, 103, 104, 105]).node
    result = insert(tree, (1, 2, 3, 4, 5, 6), range(6), [-1, 101, 102, 103, 104, 105])
    assert result.node == end and result.released["swa"] == []
    assert residency(tree, 1, 2, 3, 4, 5, 6) == {"full": "DDDDDD", "swa": "-DDDDD"}
    assert tree.match_prefix(tokens(1, 2, 3, 4, 5)).num_tokens == 20


def test_insert_brings_an_evicted_path_back_to_the_device(tree):
    end = insert(tree, (1, 2, 3), range(3)).node
    back_up(tree, end, 50)
    tree.evict(DEVICE, {"full": 3})
    assert residency(tree, 1, 2, 3) == {"full": "HHH", "swa": "HHH"}
    result = insert(tree, (1, 2, 3), [7, 8, 9])
    assert result.num_present_tokens == 0 and result.released == {"full": [], "swa": []}
    assert residency(tree, 1, 2, 3) == {"full": "BBB", "swa": "BBB"}


def test_inserting_nothing_is_legal(tree):
    result = tree.insert([], {"full": []})
    assert result.num_tokens == 0 and tree.num_tokens(result.node) == 0
    short = tree.insert([1, 2, 3], {"full": [], "swa": []})
    assert short.node == result.node


# --- insert_host ----------------------------------------------------------------------------------


def test_a_graft_below_the_root_is_on_the_host_only(tree):
    result = insert_host(tree, (1, 2, 3, 4), range(4))
    assert result.total_tokens == 16 and result.num_present_tokens == 0 and result.released == []
    assert residency(tree, 1, 2, 3, 4) == {"full": "HHHH", "swa": "----"}
    match = tree.match_prefix(tokens(1, 2, 3, 4))  # a tombstone until a window joins it
    assert match.num_tokens == 0 and match.full_node == result.node


def test_a_graft_refills_host_copies_of_nodes_that_are_on_the_device(tree):
    #  device 1 2 3 | span 1 2 3 4: the first three get host copies, page 4 is new
    insert(tree, (1, 2, 3), range(3))
    result = insert_host(tree, (1, 2, 3, 4), range(50, 54))
    assert (result.num_present_tokens, result.released) == (0, [])
    assert residency(tree, 1, 2, 3, 4)["full"] == "BBBH"


def test_a_graft_onto_pages_that_are_there_gives_them_back(tree):
    insert_host(tree, (1, 2), [0, 1])
    result = insert_host(tree, (1, 2, 3), [10, 11, 12])
    assert (result.num_present_tokens, result.released) == (8, [10, 11])
    assert tree.owned_pages(HOST, "full") == [0, 1, 12]


def test_a_graft_below_a_node_that_is_not_on_the_host_is_dropped(tree):
    end = insert(tree, (1, 2), [0, 1]).node
    result = insert_host(tree, (3, 4), [50, 51], anchor=end)
    assert result.node is None and result.released == [50, 51] and result.total_tokens == 8
    assert tree.owned_pages(HOST, "full") == []


def test_an_empty_span_ends_at_its_anchor(tree):
    root = tree.match_prefix([]).node
    assert insert_host(tree, (), []).node == root
