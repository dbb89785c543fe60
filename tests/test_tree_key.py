"""Token packing, page comparison, the keys of nodes, the digest and the picture."""

import random
import struct
from array import array
from itertools import pairwise

import numpy as np
import pytest
import torch
from tree_tools import DEVICE, insert, make_tree, tokens

from hicache_ext.errors import TreeError
from hicache_ext.keys import page_keys_py
from hicache_ext.tree import RadixTree, pack_tokens
from hicache_ext.tree.components import Full
from hicache_ext.tree.key import KeyUnit, common_pages


def test_tokens_come_in_many_shapes():
    ids = [0, 1, 2**16, 2**32 - 1]
    packed = struct.pack("<4I", *ids)
    shapes = [ids, tuple(ids), np.array(ids), np.array(ids, np.uint32), array("q", ids), packed]
    shapes += [bytearray(packed), memoryview(packed)]
    assert {pack_tokens(shape) for shape in shapes} == {packed}
    assert pack_tokens([]) == pack_tokens(b"") == b""


def test_torch_tokens():
    assert pack_tokens(torch.tensor([1, 2])) == struct.pack("<2I", 1, 2)


def test_a_numpy_float_is_no_token():
    with pytest.raises(TreeError, match=r"position 0 is no integer: 1\.0"):
        pack_tokens(np.array([1.0]))


def test_common_pages_against_a_loop():
    rng = random.Random(1)
    for _ in range(2000):
        page = rng.choice((4, 8, 64))
        edge = bytes(rng.choices((0, 1), k=page * rng.randint(1, 6)))
        offset = page * rng.randint(0, 2)
        rest = edge[: page * rng.randint(0, 6)] + bytes(rng.choices((0, 1), k=page))
        whole = bytes(offset) + rest[: rng.randint(0, len(rest))]
        expected = 0
        for i in range(len(edge) // page):
            begin, end = offset + i * page, offset + (i + 1) * page
            if whole[begin:end] != edge[i * page : (i + 1) * page]:
                break
            expected += 1
        assert common_pages(edge, whole, offset, page) == expected


def test_node_keys_are_the_chain_of_the_path_before_and_after_splits():
    tree = make_tree()
    end = insert(tree, (1, 2, 3, 4), range(4)).node
    chain = page_keys_py(pack_tokens(tokens(1, 2, 3, 4)), 4)
    assert tree.keys(end) == chain
    part = tree.match_prefix(tokens(1, 2)).node
    assert tree.keys(part) == chain[:2] and tree.keys(end) == chain
    more = insert(tree, (1, 2, 9), [0, 1, 9]).node
    assert tree.keys(more)[:2] == chain[:2] and tree.keys(more)[2] != chain[2]
    tree.check_integrity()


def test_the_digest_tells_different_calls_apart():
    digests = set()
    for call in (
        lambda t: None,
        lambda t: t.match_prefix(tokens(1)),
        lambda t: t.match_prefix(tokens(2)),
        lambda t: t.match_prefix(tokens(1), b"lora"),
        lambda t: insert(t, (1, 2), [8, 9]),
        lambda t: insert(t, (1, 3), [8, 9]),
        lambda t: insert(t, (1, 3), [8, 9], [-1, -1]),
        lambda t: t.lock(t.match_prefix(tokens(1)).node),
        lambda t: t.evict(DEVICE, {"full": 1}),
    ):
        tree = make_tree()
        insert(tree, (1,), [0])
        call(tree)
        digests.add(tree.digest)
        assert 0 <= tree.digest < 1 << 62
    assert len(digests) == 9


def test_page_ids_are_not_part_of_the_digest():
    """Ranks may hold the same page under different ids: their pools need not be used alike."""
    one, other = make_tree(), make_tree()
    insert(one, (1, 2), [0, 1])
    insert(other, (1, 2), [7, 5])
    assert one.digest == other.digest


def test_the_picture():
    tree = make_tree()
    end = insert(tree, (1, 2), [0, 1], [-1, 21]).node
    insert(tree, (1, 3), [0, 3])
    tree.lock(end)
    assert tree.show().splitlines() == [
        "root (node 0), page 4",
        "└── #1 tokens 0..4 [100 101 102 103] full:D*1 swa:D*1",
        "    ├── #2 tokens 4..8 [200 201 202 203] full:D*1 swa:D*1",
        "    └── #3 tokens 4..8 [300 301 302 303] full:D swa:D",
    ]


def test_keys_are_computed_when_first_asked_for_and_kept():
    hashed = []

    def counting(packed, page_size, seed):
        hashed.append(len(packed) // 4 // page_size)
        return page_keys_py(packed, page_size, seed)

    tree = RadixTree(4, (Full(),), page_keys=counting)
    end = tree.insert(tokens(1, 2, 3), {"full": [0, 1, 2]}).node
    part = tree.match_prefix(tokens(1)).node
    assert hashed == []
    assert tree.keys(part) == tree.keys(end)[:1] and hashed == [1, 2]
    tree.match_prefix(tokens(1, 2))
    longer = tree.insert(tokens(1, 2, 3, 4), {"full": [0, 1, 2, 3]}).node
    assert tree.keys(longer)[:3] == tree.keys(end) and hashed == [1, 2, 1]


# --- what is no token id --------------------------------------------------------------------------

NO_TOKENS = {
    "list, too wide": ([1, 2**32], "position 1 does not fit 32 bits: 4294967296"),
    "list, negative": ([-1], "position 0 does not fit 32 bits: -1"),
    "list, float": ([1, 2.0], r"position 1 is no integer: 2\.0"),
    "list of bools": ([True, False], "position 0 is no integer: True"),
    "list, text": (["7"], "position 0 is no integer: '7'"),
    "rows": ([[1, 2]], r"position 0 is no integer: \[1, 2\]"),
    "no sequence": (7, "must be a sequence of ints, got int"),
    "numpy, too wide": (np.array([1, 2**32]), "position 1 does not fit 32 bits: 4294967296"),
    "numpy, negative": (np.array([5, -7], np.int32), "position 1 does not fit 32 bits: -7"),
    "numpy, uint64": (np.array([2**64 - 1], np.uint64), "does not fit 32 bits: 184467440737"),
    "numpy, float": (np.array([1.0]), r"position 0 is no integer: 1\.0"),
    "numpy, bool": (np.array([True]), "position 0 is no integer: True"),
    "numpy, rows": (np.zeros((2, 2), int), r"position 0 is no integer: \[0, 0\]"),
    "torch, too wide": (torch.tensor([1, 2**40]), "position 1 does not fit 32 bits: 1099511627776"),
    "torch, negative": (torch.tensor([-3]), "position 0 does not fit 32 bits: -3"),
    "torch, float": (torch.tensor([0.5]), r"position 0 is no integer: 0\.5"),
    "torch, bool": (torch.tensor([True]), "position 0 is no integer: True"),
}


@pytest.mark.parametrize(("given", "message"), NO_TOKENS.values(), ids=NO_TOKENS)
@pytest.mark.parametrize("unit", KeyUnit)
def test_what_is_no_token_id_is_named_and_changes_nothing(given, message, unit):
    tree = RadixTree(4, (Full(),), unit=unit)
    tree.insert(list(range(9)), {"full": [0, 1]})
    before = tree.digest, tree.show()
    for call in (tree.match_prefix, lambda ids: tree.insert(ids, {"full": [2]}), tree.pack):
        with pytest.raises(TreeError, match=message):
            call(given)
    assert (tree.digest, tree.show()) == before
    tree.check_integrity()


@pytest.mark.parametrize("dtype", ["u1", "i2", "i4", "u4", "i8", "u8", ">i4"])
def test_arrays_of_any_integer_pack_like_lists(dtype):
    ids = [0, 1, 127, 5]
    expected = struct.pack("<4I", *ids)
    assert pack_tokens(np.array(ids, dtype)) == expected
    assert pack_tokens(np.array([ids, ids], dtype)[1]) == expected
    assert pack_tokens(np.array(ids * 2, dtype)[::2]) == struct.pack("<4I", 0, 127, 0, 127)


# --- pairs of tokens ------------------------------------------------------------------------------


def test_n_tokens_are_one_pair_less():
    pack = KeyUnit.BIGRAM.pack
    assert pack([]) == pack([7]) == b""
    assert pack([1, 2, 3]) == struct.pack("<4I", 1, 2, 2, 3)
    assert pack(struct.pack("<3I", 1, 2, 3)) == pack(np.array([1, 2, 3])) == pack([1, 2, 3])


def bigram_tree():
    return RadixTree(4, (Full(),), unit=KeyUnit.BIGRAM)


def test_a_page_of_pairs_needs_the_token_after_it():
    tree = bigram_tree()
    end = tree.insert(list(range(9)), {"full": [0, 1]})
    assert (end.num_tokens, tree.num_tokens(end.node)) == (8, 8)
    assert tree.match_prefix(list(range(8))).num_tokens == 4  # 7 pairs: the second page lacks one
    assert tree.match_prefix(list(range(9))).num_tokens == 8
    assert tree.match_prefix([*range(8), 99]).num_tokens == 4  # another token after the page
    with pytest.raises(TreeError, match="2 page ids for 1 pages"):
        tree.insert(list(range(100, 108)), {"full": [2, 3]})
    tree.check_integrity()


def test_keys_of_pairs_are_the_chain_over_pairs():
    tree = bigram_tree()
    ids = list(range(50, 63))
    node = tree.insert(ids, {"full": [0, 1, 2]}).node
    pairs = [word for pair in pairwise(ids) for word in pair]
    assert tree.keys(node) == page_keys_py(struct.pack("<24I", *pairs), 8)
    part = tree.match_prefix(ids[:6]).node  # splits; packed tokens mean the same
    assert tree.keys(part) == tree.keys(node)[:1]
    assert tree.match_prefix(tree.pack(ids)).node == node


def test_packed_bytes_are_pairs_to_the_tree():
    with pytest.raises(TreeError, match="12 bytes is no multiple of 8"):
        bigram_tree().match_prefix(struct.pack("<3I", 1, 2, 3))


def test_pairs_survive_a_host_graft_and_a_transfer():
    tree = bigram_tree()
    ids = list(range(13))
    root = tree.match_prefix([]).node
    graft = tree.insert_host(root, ids[:9], [0, 1])
    tree.insert_host(graft.node, ids[8:], [2])  # the pair (8, 9) begins the third page
    match = tree.match_prefix(ids)
    assert match.num_tokens == 12 and match.num_device_tokens == 0
    plan = tree.begin_load_back(match.node)
    tree.commit_load_back(plan, {"full": [4, 5, 6]})
    assert tree.match_prefix(ids).num_device_tokens == 12
    tree.check_integrity()
