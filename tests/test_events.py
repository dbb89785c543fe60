"""Events for routers: their form on the wire, and that one who only hears them knows the tree."""

import random
import time

import pytest
from router import Router
from tree_fuzz import OPS, Fuzz
from tree_tools import PAGE, tokens

from hicache_ext import events
from hicache_ext.errors import HiCacheError
from hicache_ext.events import MEDIUM, block_hash, router_events
from hicache_ext.keys import namespace_seed, page_keys_py
from hicache_ext.namespace import Namespace
from hicache_ext.tier import Tier
from hicache_ext.tree import Full, KeyUnit, RadixTree, pack_tokens
from hicache_ext.tree.events import EventKind, PageEvent

DEVICE, HOST = Tier.DEVICE, Tier.HOST


def make_tree(**kwargs):
    return RadixTree(PAGE, (Full(),), has_events=True, **kwargs)


def wire(tree):
    return router_events(tree.take_events(), tree.page_size, tree.unit)


def hashes(*pages, namespace=b""):
    keys = page_keys_py(pack_tokens(tokens(*pages)), PAGE, namespace_seed(namespace))
    return [block_hash(key) for key in keys]


# --- the form -------------------------------------------------------------------------------------


def test_block_hash_is_that_of_sglang():
    # Of their documentation: the first 16 hex digits of the page's SHA-256 as a signed int64.
    assert block_hash(bytes.fromhex("34fb5c825de7ca4a" + "00" * 24)) == 0x34FB5C825DE7CA4A
    assert block_hash(b"\xff" * 32) == -1


def test_fields_and_their_order():
    tree = make_tree()
    end = tree.insert(tokens(1, 2), {"full": [0, 1]}).node
    one, two = hashes(1, 2)
    (stored,) = wire(tree)
    assert list(stored.items()) == [
        ("type", "BlockStored"),
        ("block_hashes", [one, two]),
        ("parent_block_hash", None),
        ("token_ids", tokens(1, 2)),
        ("block_size", PAGE),
        ("lora_id", None),
        ("medium", "GPU"),
        ("lora_name", None),
    ]
    plan = tree.begin_backup(end)
    tree.commit_backup(plan, {"full": [5, 6]})
    tree.clear(DEVICE)
    stored["medium"] = "CPU"
    removed = {"type": "BlockRemoved", "block_hashes": [one, two], "medium": "GPU"}
    assert wire(tree) == [stored, removed]
    tree.clear(HOST)
    assert wire(tree) == [{"type": "AllBlocksCleared"}]


def test_runs_that_follow_each_other_become_one_event():
    tree = make_tree()
    for i in range(1, 4):
        tree.insert(tokens(*range(1, i + 1)), {"full": list(range(i))})
    tree.insert(tokens(1, 9), {"full": [0, 9]})  # not below the last
    first, second = wire(tree)
    assert first["block_hashes"] == hashes(1, 2, 3) and first["token_ids"] == tokens(1, 2, 3)
    assert (second["block_hashes"], second["parent_block_hash"]) == (hashes(1, 9)[1:], *hashes(1))
    tree.evict(DEVICE, {"full": 4})
    (removed,) = wire(tree)
    assert sorted(removed["block_hashes"]) == sorted({*hashes(1, 2, 3), *hashes(1, 9)})


@pytest.mark.parametrize(
    ("namespace", "told"),
    [
        (b"", (None, None, None, None)),
        (Namespace(lora="fr").key, (None, "fr", None, None)),
        (Namespace(lora=7).key, (7, None, None, None)),
        (Namespace("fr", "t", "s").key, (None, "fr", "s", "t")),
        (b"mine", (None, None, "6d696e65", None)),
    ],
)
def test_what_separates_is_told(namespace, told):
    tree = make_tree()
    tree.insert(tokens(1), {"full": [0]}, namespace)
    (event,) = wire(tree)
    names = ("lora_id", "lora_name", "cache_salt", "tenant")
    assert tuple(event.get(name) for name in names) == told
    assert event["block_hashes"] == hashes(1, namespace=namespace)


def test_bigrams_are_pairs():
    tree = make_tree(unit=KeyUnit.BIGRAM)
    tree.insert([1, 2, 3, 4, 5], {"full": [0]})
    (event,) = wire(tree)
    assert event["token_ids"] == [(1, 2), (2, 3), (3, 4), (4, 5)]


def test_many_small_events_take_linear_time():
    def seconds(count):
        raw = [
            PageEvent(EventKind.REMOVED, DEVICE, random.Random(i).randbytes(32))
            for i in range(count)
        ]
        best = float("inf")
        for _ in range(3):
            begin = time.process_time()
            router_events(raw, 4, KeyUnit.TOKEN)
            best = min(best, time.process_time() - begin)
        return best

    assert seconds(16_000) < 12 * seconds(2_000)  # 8 if linear, 64 if quadratic


def test_msgpack_of_a_batch_is_what_a_vllm_subscriber_reads():
    """The subscriber's types, written anew after vLLM's documentation."""
    msgspec = pytest.importorskip("msgspec")
    optional = dict.fromkeys(("parent_block_hash", "lora_id", "lora_name", "cache_salt"), None)
    stored = msgspec.defstruct(
        "BlockStored",
        [
            ("block_hashes", list[int]),
            ("token_ids", list[int]),
            ("block_size", int),
            ("medium", str),
            *((name, object, default) for name, default in optional.items()),
        ],
        tag=True,
    )
    removed = msgspec.defstruct(
        "BlockRemoved", [("block_hashes", list[int]), ("medium", str)], tag=True
    )
    cleared = msgspec.defstruct("AllBlocksCleared", [], tag=True)
    batch_type = msgspec.defstruct(
        "KVEventBatch",
        [
            ("ts", float),
            ("events", list[stored | removed | cleared]),
            ("data_parallel_rank", int | None),
        ],
        array_like=True,
    )
    tree = make_tree()
    tree.insert(tokens(1), {"full": [0]}, Namespace("fr", "t", "s").key)
    said = wire(tree)
    tree.evict(DEVICE, {"full": 1})
    said += wire(tree)
    tree.clear(DEVICE)
    said += wire(tree)
    payload = events.encode(events.batch(said, 12.5, dp_rank=3))
    read = msgspec.msgpack.decode(payload, type=batch_type)
    assert (read.ts, read.data_parallel_rank) == (12.5, 3)
    assert [type(e).__name__ for e in read.events] == [
        "BlockStored",
        "BlockRemoved",
        "AllBlocksCleared",
    ]
    assert (read.events[0].lora_name, read.events[0].cache_salt) == ("fr", "s")
    assert read.events[0].block_hashes == read.events[1].block_hashes == said[0]["block_hashes"]


def test_without_msgspec_encode_says_so(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "msgspec", None)
    with pytest.raises(HiCacheError, match="needs msgspec"):
        events.encode(events.batch([], 0.0))


# --- one who only listens knows the tree ----------------------------------------------------------


def blocks_of(tree):
    """By medium: block, parent, tokens and namespace of each page of the base, from the nodes."""
    found = {medium: {} for medium in MEDIUM.values()}
    for row in tree.rows():
        chain = [None, *(block_hash(key) for key in tree.keys(row.id))]
        ids, size = tree.unit.unpack(row.key), tree.page_size
        num_pages = len(ids) // size
        for pages, medium in zip(
            (row.parts[0].device, row.parts[0].host), MEDIUM.values(), strict=True
        ):
            for i in range(num_pages if pages is not None else 0):
                parent, block = chain[i - num_pages - 1], chain[i - num_pages]
                found[medium][block] = parent, tuple(ids[i * size : (i + 1) * size]), row.namespace
    return found


class EventFuzz(Fuzz):
    """The tree's fuzz with a router that hears its events, at random times; no other rank has
    events, and yet all must stay alike.
    """

    num_trees = 0

    def __init__(self, seed):
        super().__init__(seed)
        self.weights[[op.__name__ for op in OPS].index("events")] = 0  # it would take ours
        has_gaps = self.model.gaps
        self.router = Router(self.page_size, has_gaps)
        self.late = lambda: Router(self.page_size, has_gaps)
        self.listen = random.Random(seed)

    def make_tree(self, *policies):
        self.has_events = self.num_trees == 0
        self.num_trees += 1
        return super().make_tree(*policies)

    def verify(self):
        super().verify()
        if self.listen.random() < 0.3:
            self.hear()

    def hear(self):
        self.router.take(wire(self.tree))
        there = blocks_of(self.tree)
        for medium, blocks in there.items():
            heard = self.router.blocks[medium]
            assert {b: h[:2] for b, h in heard.items()} == {b: t[:2] for b, t in blocks.items()}
            salts = {b: h[2][2] or "" for b, h in heard.items()}
            assert salts == {b: t[2].hex() for b, t in blocks.items()}
        late = self.late()
        late.take(router_events(self.tree.event_snapshot(), self.page_size, self.tree.unit))
        assert late.blocks == self.router.blocks

    def finish(self):
        super().finish()
        self.hear()
        assert not any(self.router.blocks.values())


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("tree_core", ["python", "native"], indirect=True)
def test_events_alone_rebuild_the_tree(seed, tree_core):
    EventFuzz(seed).run(60)


@pytest.mark.long
@pytest.mark.parametrize("first", range(0, 400, 100))
@pytest.mark.parametrize("tree_core", ["python", "native"], indirect=True)
def test_events_alone_rebuild_the_tree_long(first, tree_core):
    for seed in range(first, first + 100):
        EventFuzz(seed).run(200)
