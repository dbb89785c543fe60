"""Token packing, page comparison, the keys of nodes, the digest and the picture."""

import random
import struct
from array import array

import numpy as np
import pytest
from tree_tools import DEVICE, insert, make_tree, tokens

from hicache_ext.errors import TreeError
from hicache_ext.keys import page_keys_py
from hicache_ext.tree import RadixTree, pack_tokens
from hicache_ext.tree.components import Full
from hicache_ext.tree.key import common_pages


def test_tokens_come_in_many_shapes():
    ids = [0, 1, 2**16, 2**32 - 1]
    packed = struct.pack("<4I", *ids)
    shapes = [ids, tuple(ids), np.array(ids), np.array(ids, np.uint32), array("q", ids), packed]
    shapes += [bytearray(packed), memoryview(packed)]
    assert {pack_tokens(shape) for shape in shapes} == {packed}
    assert pack_tokens([]) == pack_tokens(b"") == b""


def test_torch_tokens():
    torch = pytest.importorskip("torch")
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


def test_keys_are_computed_once_and_only_when_asked_for():
    calls = []

    def counting(packed, page_size, seed):
        calls.append(len(packed) // (4 * page_size))
        return page_keys_py(packed, page_size, seed)

    tree = RadixTree(4, (Full(),), page_keys=counting)
    top = tree.insert(tokens(1, 2), {"full": [0, 1]}).node
    end = tree.insert(tokens(1, 2, 3), {"full": [0, 1, 2]}).node
    assert calls == []
    tree.keys(top)
    tree.keys(end)
    tree.keys(end)
    assert calls == [2, 1]


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
