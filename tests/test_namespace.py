"""Namespaces: coded without ambiguity, refused when wrong, apart in the tree and in page keys."""

import itertools
import random

import numpy as np
import pytest
from tree_tools import PAGE, make_tree, tokens

from hicache_ext.errors import TreeError
from hicache_ext.keys import namespace_seed, page_keys_py
from hicache_ext.namespace import Namespace
from hicache_ext.tree import pack_tokens

TEXTS = (None, "a", "b", "ab", "t", "\0", "a\0", "s\x01\0\0\0b", "é", "7")
ALL = [
    Namespace(lora, tenant, salt)
    for lora, tenant, salt in itertools.product((*TEXTS, 0, 7, 2**63 - 1), TEXTS, TEXTS)
]


def test_no_two_namespaces_have_the_same_key_and_each_is_read_back():
    keys = [namespace.key for namespace in ALL]
    assert len(set(keys)) == len(ALL) == 1300
    assert [Namespace.of(key) for key in keys] == ALL
    assert Namespace().key == b""


def test_known_answer_pins_the_format():
    # Stored pages outlive a release: these bytes must never change.
    key = Namespace(lora=7, tenant="a", salt="bc").key
    assert key == b"hn1i\x08\0\0\0\x07\0\0\0\0\0\0\0t\x01\0\0\0as\x02\0\0\0bc"


def test_foreign_bytes_are_no_namespace_of_ours():
    rng = random.Random(5)
    foreign = [
        b"lora-7",
        b"hn1",
        b"hn1x",
        b"hn1n\xff\0\0\0a",
        b"hn1n\x01\0\0\0\xff",
        b"hn1n\0\0\0\0",
    ]
    foreign += [
        b"hn1s\x01\0\0\0at\x01\0\0\0a",
        b"hn1t\x01\0\0\0at\x01\0\0\0a",
        b"hn1i\x01\0\0\0\x07",
    ]
    whole = Namespace("x", "y", "z").key
    foreign += [
        whole[:end] for end in range(1, len(whole)) if whole[:end] not in {whole[:9], whole[:15]}
    ]
    foreign += [b"hn1" + rng.randbytes(rng.randrange(1, 20)) for _ in range(2000)]
    assert [key for key in foreign if Namespace.of(key) is not None] == []


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({"lora": ""}, "lora='' is no name"),
        ({"lora": -1}, "lora=-1 is no number"),
        ({"lora": 2**63}, "lora=9223372036854775808 is no number"),
        ({"lora": True}, "lora=True is no name"),
        ({"lora": 1.0}, r"lora=1\.0 is no name"),
        ({"tenant": b"a"}, "tenant=b'a' is no name"),
        ({"tenant": 3}, "tenant=3 is no name"),
        ({"salt": ""}, "salt='' is no name; None means none"),
    ],
)
def test_wrong_parts_are_named(parts, message):
    with pytest.raises(TreeError, match=message):
        Namespace(**parts)


def test_a_number_may_be_numpys():
    assert Namespace(lora=np.int64(7)) == Namespace(lora=7)


def test_the_same_tokens_never_meet_in_the_tree_or_in_page_keys():
    tree, seen = make_tree(window=None), set()
    some = ALL[:: len(ALL) // 40]
    for page, namespace in enumerate(some):
        assert tree.match_prefix(tokens(1, 2), namespace.key).num_tokens == 0
        pages = {"full": [2 * page, 2 * page + 1]}
        node = tree.insert(tokens(1, 2), pages, namespace.key).node
        seed = namespace_seed(namespace.key)
        assert tree.keys(node) == page_keys_py(pack_tokens(tokens(1, 2)), PAGE, seed)
        seen.update(tree.keys(node))
        assert tree.namespace(node) == namespace.key
    assert len(seen) == 2 * len(some)
    tree.check_integrity()
