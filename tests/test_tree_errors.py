"""Bad input: each is refused with the values, and nothing has changed."""

import pytest
from tree_tools import DEVICE, HOST, back_up, insert, insert_host, make_tree, tokens

from hicache_ext.errors import LayoutError, TreeError
from hicache_ext.tier import Tier
from hicache_ext.tree import Full, RadixTree, Swa


@pytest.fixture
def tree():
    """[ 1 2 3 ] on both tiers and [ 4 ] on the device."""
    made = make_tree()
    end = insert(made, (1, 2, 3), range(3)).node
    back_up(made, end, 50)
    insert(made, (4,), [4])
    return made


CASES = [
    (lambda t: t.match_prefix([1, -1]), "token at position 1 does not fit 32 bits: -1"),
    (lambda t: t.match_prefix([1 << 32]), "token at position 0 does not fit 32 bits: 4294967296"),
    (lambda t: t.match_prefix([1, 2.5]), "token at position 1 is no integer: 2.5"),
    (lambda t: t.match_prefix([1, None]), "token at position 1 is no integer: None"),
    (lambda t: t.match_prefix(7), "must be a sequence of ints, got int"),
    (lambda t: t.match_prefix(b"12345"), "5 bytes is no multiple of 4"),
    (lambda t: t.match_prefix([], "lora"), "a namespace is bytes, got 'lora'"),
    (lambda t: t.insert([1], {"full": []}, "lora"), "a namespace is bytes, got 'lora'"),
    (lambda t: insert(t, (8,), []), "insert, full: 0 page ids for 1 pages"),
    (lambda t: insert(t, (8,), [8], [1, 2]), "insert, swa: 2 page ids for 1 pages"),
    (lambda t: insert(t, (8, 9), [8, -1], [-1, -1]), "insert, full: page id -1 at position 1"),
    (lambda t: insert(t, (8,), [8], [-2]), "insert, swa: page id -2 at position 0"),
    (lambda t: insert(t, (8,), [8], ["x"]), "page ids must be 64-bit integers"),
    (lambda t: insert(t, (8,), [1 << 63], [-1]), "page ids must be 64-bit integers"),
    (lambda t: t.insert(tokens(8), {"swa": [8]}), r"needs pages of 'full'; got \['swa'\]"),
    (lambda t: t.insert(tokens(8), {"full": [8], "mamba": [8]}), "'mamba' is unknown"),
    (lambda t: insert(t, (8, 9), [8, 8]), "full device page 8 is named twice"),
    (lambda t: insert(t, (8,), [4]), "full device page 4 is in the tree already"),
    (lambda t: insert(t, (8,), [8], [104]), "swa device page 104 is in the tree already"),
    (lambda t: insert(t, (1, 2, 3), [2, 1, 0]), "full device page 2 is in the tree already"),
    (lambda t: insert(t, (1, 2, 8), [0, 1, 2]), "full device page 2 is in the tree already"),
    (lambda t: insert_host(t, (8,), [], anchor=0), "insert_host, full: 0 page ids for 1 pages"),
    (lambda t: insert_host(t, (8,), [-1], anchor=0), "page id -1 at position 0"),
    (lambda t: insert_host(t, (8,), [50], anchor=0), "full host page 50 is in the tree already"),
    (lambda t: insert_host(t, (8, 9), [8, 8], anchor=0), "full host page 8 is named twice"),
    (lambda t: insert_host(t, (8,), [8], anchor=99), "node 99 does not exist"),
    (lambda t: t.lock(99), "node 99 does not exist"),
    (lambda t: t.lock(None), "node None does not exist"),
    (lambda t: t.lock(0, Tier.STORAGE), "holds pages on the device and on the host"),
    (lambda t: t.lock(0, DEVICE, {"swa": 1}), "lock of 1 swa pages back from node 0, 0 pages deep"),
    (lambda t: t.lock(0, DEVICE, {"swa": -1}), "lock of -1 swa pages"),
    (lambda t: t.lock(0, DEVICE, {"mamba": 0}), "'mamba' is unknown"),
    (lambda t: t.keys(99), "node 99 does not exist"),
    (lambda t: t.num_tokens(-1), "node -1 does not exist"),
    (lambda t: t.path_pages(0, "mamba", HOST), "'mamba' is unknown"),
    (lambda t: t.path_pages(0, "full", Tier.STORAGE), "holds pages on the device"),
    (lambda t: t.path_pages(0, "full", HOST, -1), "last=-1"),
    (lambda t: t.evict(DEVICE, {"full": -1}), "evict -1 pages of 'full'"),
    (lambda t: t.evict(DEVICE, {"mamba": 1}), "'mamba' is unknown"),
    (lambda t: t.evict(Tier.STORAGE, {}), "holds pages on the device"),
    (lambda t: t.clear(Tier.STORAGE), "holds pages on the device"),
    (lambda t: t.begin_backup(99), "node 99 does not exist"),
    (lambda t: t.begin_backup(1, last=-1), "backup of the last -1 pages of node 1"),
    (lambda t: t.coldest(DEVICE, "full", -1), "the coldest -1 pages of 'full'"),
    (lambda t: t.coldest(DEVICE, "mamba", 1), "'mamba' is unknown"),
    (lambda t: t.coldest(Tier.STORAGE, "full", 1), "holds pages on the device"),
    (lambda t: t.page_counts(Tier.STORAGE, "full"), "holds pages on the device"),
    (lambda t: t.page_counts(HOST, "mamba"), "'mamba' is unknown"),
    (lambda t: t.num_hits(99), "node 99 does not exist"),
    (lambda t: t.insert([], {"full": []}, b"", 1.5), "priority 1.5 is no 32-bit integer"),
    (lambda t: t.insert([], {"full": []}, b"", 1 << 31), "priority 2147483648 is no 32-bit"),
    (lambda t: t.insert([], {"full": []}, b"", "high"), "priority 'high' is no 32-bit integer"),
    (lambda t: t.begin_load_back(99), "node 99 does not exist"),
    (lambda t: t.owned_pages(Tier.STORAGE, "full"), "holds pages on the device"),
]


@pytest.mark.parametrize(("call", "message"), CASES, ids=[message for _, message in CASES])
def test_misuse_is_refused_and_changes_nothing(tree, call, message):
    before = tree.digest, tree.show(), len(tree._state.roots)
    with pytest.raises(TreeError, match=message):
        call(tree)
    assert (tree.digest, tree.show(), len(tree._state.roots)) == before
    tree.check_integrity()


def test_evicting_more_than_there_is_frees_what_there_is(tree):
    assert tree.evict(DEVICE, {"full": 1000}).device["full"] == [0, 1, 2, 4]


@pytest.mark.parametrize("page_size", [0, -1])
def test_a_page_has_a_token(page_size):
    with pytest.raises(LayoutError, match=f"page_size={page_size}"):
        RadixTree(page_size, (Full(),))


@pytest.mark.parametrize("window", [0, -5])
def test_a_window_has_a_token(window):
    with pytest.raises(LayoutError, match=f"window_tokens={window}"):
        Swa(window)


def test_the_base_comes_first_and_names_are_distinct():
    for parts in ((), (Swa(4),), (Swa(4), Full()), (Full(), Full())):
        with pytest.raises(LayoutError, match="must be the base"):
            RadixTree(4, parts)
    with pytest.raises(LayoutError, match="must be distinct"):
        RadixTree(4, (Full(), Swa(4), Swa(8)))
    used = Full()
    RadixTree(4, (used,))
    with pytest.raises(LayoutError, match="of no other tree"):
        RadixTree(4, (used,))
