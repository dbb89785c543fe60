"""The native core of the tree: what the other test_tree_*.py do not ask of both cores.

That both do the same, call by call, is in test_tree_fuzz.py.
"""

import random
import sys
import threading
from array import array

import numpy as np
import pytest
import test_tree_errors
import torch
from tree_tools import DEVICE, HOST

from hicache_ext.errors import LayoutError, TreeError
from hicache_ext.keys import page_keys, token_hash
from hicache_ext.tree import Full, Mamba, RadixTree, Swa
from hicache_ext.tree.native import NativeTree

laden_tree = test_tree_errors.tree


@pytest.mark.parametrize(("call", "message"), test_tree_errors.CASES)
def test_misuse(laden_tree, call, message):
    test_tree_errors.test_misuse_is_refused_and_changes_nothing(laden_tree, call, message)


def test_a_tree_has_the_core_that_is_asked_for():
    class Odd(Swa):
        """Whatever it does, the native core does not know."""

    def core(name, *parts):
        return type(RadixTree(4, parts, core=name))

    assert core("python", Full()) is RadixTree
    assert core("native", Full(), Swa(4)) is NativeTree is core("auto", Full(), Swa(4))
    assert core("auto", Full(), Odd(4)) is RadixTree
    with pytest.raises(LayoutError, match=r"'Full', 'Odd'.* have a native core"):
        core("native", Full(), Odd(4))
    with pytest.raises(LayoutError, match="core='rust', expected one of"):
        core("rust", Full())


PROMPT = [7, 0, (1 << 32) - 1, 5, 1 << 31, 9, 11, 12]


def arrays(values):
    """The same integers in all forms that a caller may have."""
    yield list(values)
    yield tuple(values)
    yield (value for value in values)
    yield array("Q", values)
    yield array("q", values)
    yield np.array(values, dtype=np.int64)
    yield np.repeat(np.array(values, dtype=np.int64), 3)[::3]
    yield np.array(values, dtype=np.uint64)
    yield torch.tensor(values)
    yield torch.tensor(values, requires_grad=False).repeat_interleave(2)[::2]
    yield [np.int64(value) for value in values]


def test_tokens_in_every_form():
    tree = RadixTree(4, (Full(),))
    node = tree.insert(PROMPT, {"full": [1, 2]}).node
    packed = np.array(PROMPT, dtype=np.uint32).tobytes()
    odd = memoryview(b"x" + packed)[1:]  # at an odd address
    forms = [*arrays(PROMPT), packed, bytearray(packed), memoryview(packed), odd]
    forms += [array("I", PROMPT), np.array(PROMPT, dtype=np.uint32)]
    forms += [memoryview(packed + packed)[: len(packed)]]
    assert [tree.match_prefix(form).node for form in forms] == [node] * len(forms)
    assert tree.match_prefix(np.array([], dtype=np.int64)).node == 0
    assert tree.match_prefix([1, True]).node == tree.match_prefix(range(3)).node == 0


@pytest.mark.parametrize("value", [-1, 1 << 32, 1 << 62, -(1 << 40)])
def test_tokens_of_no_32_bits_in_every_form(value):
    tree, prompt = RadixTree(4, (Full(),)), [1, 2, value, 3]
    forms = [prompt, tuple(prompt), array("q", prompt), np.array(prompt), torch.tensor(prompt)]
    for form in [*forms, np.array(prompt + prompt)[:4]]:
        with pytest.raises(TreeError, match=f"token at position 2 does not fit 32 bits: {value}"):
            tree.match_prefix(form)
    with pytest.raises(TreeError, match=r"token at position 0 is no integer: 1\.5"):
        tree.match_prefix(np.array([1.5, 2.0]))


def test_page_ids_in_every_form():
    ids = [3, 1 << 40, 5, 1]
    for form in arrays(ids):
        tree = RadixTree(2, (Full(),))
        node = tree.insert(PROMPT, {"full": form}).node
        assert tree.path_pages(node, "full", DEVICE) == ids
        assert tree.owned_pages(DEVICE, "full") == sorted(ids)
        small = [value % 1000 for value in ids]
        for dtype in (np.int32, np.uint32):
            tree.clear(DEVICE)
            node = tree.insert(PROMPT, {"full": np.array(small, dtype=dtype)}).node
            assert tree.path_pages(node, "full", DEVICE) == small


def test_evicting_a_number_of_pages_that_no_machine_has():
    tree = RadixTree(4, (Full(),))
    tree.insert(PROMPT, {"full": [1, 2]})
    assert tree.evict(DEVICE, {"full": 1 << 80}).device["full"] == [1, 2]


def test_page_keys_are_the_chain_whoever_computes_them():
    calls = []

    def counting(tokens, page_size, seed):
        calls.append(len(tokens) // 4)
        return page_keys(tokens, page_size, seed)

    for namespace in (b"", b"lora"):
        trees = [RadixTree(2, (Full(),), page_keys=keys) for keys in (page_keys, counting)]
        found = []
        for tree in trees:
            tree.insert(PROMPT[:4], {"full": [1, 2]}, namespace)
            node = tree.insert(PROMPT, {"full": [1, 2, 3, 4]}, namespace).node
            found.append(tree.keys(node))
            tree.match_prefix(PROMPT[:6], namespace)
            assert tree.keys(node) == found[0] and len(found[0]) == 4
    assert calls == [4, 4, 4, 4]  # once a node, not again behind a split


def test_the_native_token_hash_gives_the_same_digest():
    digests = set()
    for core in ("python", "native"):
        tree = RadixTree(2, (Full(), Swa(3)), token_hash=token_hash, core=core)
        tree.insert(PROMPT, {"full": [1, 2, 3, 4]}, b"tenant")
        tree.lock(tree.match_prefix(PROMPT, b"tenant").full_node)
        digests.add((tree.digest, tree.log.hash))
    assert len(digests) == 1


def test_what_is_read_costs_no_reference():
    """Buffers that were lent are given back, and ids are nobody's but the caller's."""
    tree, words = RadixTree(4, (Full(),)), bytearray(np.array(PROMPT, dtype=np.uint32).tobytes())
    tree.insert(words, {"full": [1, 2]})
    words.extend(b"1234")  # BufferError if the tree still had it
    page = 1 << 50
    before = sys.getrefcount(page)
    for _ in range(10):
        tree.path_pages(tree.match_prefix(words).node, "full", DEVICE)
    assert sys.getrefcount(page) == before


def test_both_cores_drop_the_same_duplicates():
    for seed in range(8):
        dropped = []
        for core in ("python", "native"):
            draw = random.Random(seed)
            tree, page = RadixTree(1, (Full(), Swa(3), Mamba()), core=core), 0
            for _ in range(40):
                tokens = [draw.randrange(2) for _ in range(draw.randint(1, 7))]
                ids = range(page, page := page + len(tokens))
                end = tree.insert(tokens, dict.fromkeys(("full", "swa", "mamba"), ids)).node
                if plan := tree.begin_backup(end):
                    counts = plan.num_pages.items()
                    tree.commit_backup(plan, {n: range(page, page + count) for n, count in counts})
                    page += max(plan.num_pages.values())
            tree.lock(end, HOST)
            wanted = {"full": 3, "swa": 5, "mamba": 2}
            dropped.append([tree.drop_duplicates(wanted), tree.digest, tree.log.hash])
            tree.check_integrity()
        assert dropped[0] == dropped[1] and dropped[0][0].host["full"]


def test_gil_is_released_while_the_keys_of_a_node_are_hashed():
    tree = RadixTree(1 << 20, (Full(),), page_keys=page_keys, core="native")
    node = tree.insert(bytes(128 << 20), {"full": range(32)}).node
    done = threading.Event()
    hashing = threading.Thread(target=lambda: (tree.keys(node), done.set()))
    hashing.start()
    num_turns = 0
    while not done.wait(0.001):
        num_turns += 1
    hashing.join()
    assert num_turns >= 3 and len(tree.keys(node)) == 32
