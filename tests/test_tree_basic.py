"""The tree's operations one by one, on a few pages. Page 4, window 10 tokens: 3 pages."""

import pytest

from hicache_ext.tier import Tier
from hicache_ext.tree import Full, RadixTree, Swa

PAGE, WINDOW = 4, 10


def make_tree() -> RadixTree:
    return RadixTree(PAGE, (Full(), Swa(WINDOW)))


def tokens(*pages: int) -> list[int]:
    """One page of distinct tokens per number."""
    return [100 * page + i for page in pages for i in range(PAGE)]


@pytest.fixture
def tree():
    made = make_tree()
    yield made
    made.check_integrity()


def test_insert_then_match_gives_the_pages_back(tree):
    result = tree.insert(tokens(1, 2, 3), {"full": [7, 8, 9], "swa": [17, 18, 19]})
    assert (result.num_tokens, result.num_present_tokens) == (12, 0)
    assert result.released == {"full": [], "swa": []}
    match = tree.match_prefix([*tokens(1, 2, 3, 4), 1])
    assert match.node == match.device_node == match.full_node == result.node
    assert match.num_tokens == 12 and match.num_host_tokens == 0
    assert tree.path_pages(match.node, "full", Tier.DEVICE) == [7, 8, 9]
    assert tree.path_pages(match.node, "swa", Tier.DEVICE, last=2) == [18, 19]
    assert tree.path_pages(match.node, "swa", Tier.HOST) == [-1, -1, -1]


def test_a_match_inside_an_edge_splits_and_the_old_node_is_the_suffix(tree):
    whole = tree.insert(tokens(1, 2, 3), {"full": [7, 8, 9], "swa": [17, 18, 19]}).node
    part = tree.match_prefix(tokens(1, 2, 9))
    assert part.node != whole and part.num_tokens == 8
    assert tree.path_pages(part.node, "full", Tier.DEVICE) == [7, 8]
    assert tree.path_pages(whole, "full", Tier.DEVICE) == [7, 8, 9]


def test_a_window_with_a_tombstone_in_it_ends_no_match(tree):
    #       p1 p2 p3 | p4 p5 p6       SWA: only p4..p6, a whole window
    end = tree.insert(tokens(1, 2, 3, 4, 5, 6), {"full": range(6), "swa": [-1, -1, -1, 3, 4, 5]})
    assert tree.match_prefix(tokens(1, 2, 3, 4, 5, 6)).node == end.node
    short = tree.match_prefix(tokens(1, 2, 3, 4, 5))  # two pages since the tombstone
    assert short.num_tokens == 0 and short.num_full_tokens == 20
