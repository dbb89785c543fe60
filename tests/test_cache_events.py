"""What a cache tells: events of L1 and L2 as a router hears them."""

from __future__ import annotations

import pytest
import ranks  # not from: one depth of the tick is enough here
from cache_makers import PAGE, make_rank, prefill
from router import Router

from hicache_ext.errors import LayoutError, TreeError
from hicache_ext.events import block_hash
from hicache_ext.keys import page_keys
from hicache_ext.namespace import Namespace
from hicache_ext.tier import Tier
from hicache_ext.tree import KeyUnit
from hicache_ext.tree.key import pack_tokens

__all__ = ["make_rank"]  # a fixture


# --- events ---------------------------------------------------------------------------------------


def test_a_router_follows_a_cache_down_to_the_host_and_back(make_rank):
    rank = make_rank(has_events=True)
    cache, router = rank.cache, Router(PAGE)
    tokens = list(range(40))
    hashes = {block_hash(key) for key in page_keys(pack_tokens(tokens), PAGE)}
    prefill(cache, tokens)
    router.take(cache.take_events())
    assert router.blocks["GPU"].keys() == router.blocks["CPU"].keys() == hashes
    cache.flush(Tier.DEVICE)
    router.take(cache.take_events())
    assert not router.blocks["GPU"] and router.blocks["CPU"].keys() == hashes
    match = cache.match(tokens)
    cache.load_back(match)
    cache.drain()
    cache.release(match)
    router.take(cache.take_events())
    assert router.blocks["GPU"].keys() == hashes
    late = Router(PAGE)
    late.take(cache.take_snapshot())
    assert late.blocks == router.blocks and cache.take_events() == []
    cache.flush()
    assert cache.take_events() == [{"type": "AllBlocksCleared"}]


def test_a_prefetch_is_stored_on_the_host(make_rank):
    tokens = list(range(41))
    first = make_rank()
    prefill(first.cache, tokens[:40])
    second = make_rank(has_events=True, store=first.store)
    second.cache.prefetch(tokens)
    second.cache.drain()
    router = Router(PAGE)
    router.take(second.cache.take_events())
    assert len(router.blocks["CPU"]) == 10 and not router.blocks["GPU"]


def test_a_namespace_is_told_to_the_router(make_rank):
    rank = make_rank(has_events=True)
    prefill(rank.cache, list(range(8)), Namespace(lora="fr", salt="x").key)
    first, *_ = rank.cache.take_events()
    assert (first["lora_name"], first["cache_salt"]) == ("fr", "x")


def test_a_rank_that_does_not_publish_says_nothing(make_rank):
    rank = make_rank()
    prefill(rank.cache, list(range(8)))
    assert rank.cache.take_events() == []


def test_namespaces_do_not_meet_in_a_store(make_rank):
    tokens = list(range(41))
    first = make_rank()
    names = [b"", Namespace(lora=1).key, Namespace(lora="1").key, Namespace(tenant="1").key]
    prefill(first.cache, tokens[:40], names[1])
    second = make_rank(store=first.store)
    ops = [second.cache.prefetch(tokens, name) for name in names]
    hits = {record.op_id: record.num_hit_tokens for record in second.cache.drain()}
    assert [hits[op] for op in ops] == [0, 40, 0, 0]


def test_one_of_two_ranks_listens_and_both_stay_alike(monkeypatch):
    monkeypatch.setenv("HICACHE_CHECK", "full")  # compares every call of the trees but these
    pair, router, tokens = ranks.Ranks(2, has_events=True), Router(PAGE), list(range(41))
    pair.each(lambda r: r.put("full", ranks.keys_of_pages(tokens)))
    pair.each(lambda r: r.put("swa", ranks.keys_of_pages(tokens)))
    pair.each(lambda r: r.cache.prefetch(tokens))
    pair.drain()
    first, second = pair
    router.take(first.cache.take_events())
    assert len(router.blocks["CPU"]) == 10 and second.cache.take_events() == []
    late = Router(PAGE)
    late.take(first.cache.take_snapshot())
    pair.each(lambda r: r.cache.flush())
    pair.tick()
    assert late.blocks["CPU"] and first.cache.take_events() == [{"type": "AllBlocksCleared"}]
    pair.each(lambda r: r.close())


# --- bigram keys ----------------------------------------------------------------------------------


def test_bigram_pages_go_down_to_l3_and_come_back(make_rank):
    tokens = list(range(100, 141))  # 41 tokens are 40 pairs: 10 pages
    first = make_rank(key_unit=KeyUnit.BIGRAM)
    prefill(first.cache, tokens)
    keys = page_keys(KeyUnit.BIGRAM.pack(tokens), 2 * PAGE)
    assert first.store.exists("full", keys) == [True] * 10
    assert first.cache.match(tokens).num_device_tokens == 40
    assert first.cache.match(tokens[:-1]).num_device_tokens == 36

    second = make_rank(key_unit=KeyUnit.BIGRAM, store=first.store)
    op_id = second.cache.prefetch(tokens)
    (record,) = second.cache.drain()
    assert (record.op_id, record.num_span_tokens, record.num_committed_tokens) == (op_id, 40, 40)
    match = second.cache.match(tokens)
    assert (match.num_device_tokens, match.num_host_tokens) == (0, 40)
    second.cache.load_back(match)
    second.cache.drain()
    assert match.num_device_tokens == 40 and len(match.pages["full"]) == 10
    more = [*tokens, 7, 8, 9, 10]  # one page more behind what is held
    new = second.cache.alloc({"full": 1, "swa": 1})
    pages = {name: match.pages[name] + new[name] for name in new}
    with pytest.raises(TreeError, match="do not begin"):
        second.cache.insert(match, [*tokens[:40], 99, *more[41:]], pages)  # the last pair differs
    second.cache.insert(match, more, pages)
    assert match.num_tokens == 44
    second.cache.release(match)
    second.cache.drain()
    second.cache.check_integrity()


def test_bigrams_of_no_whole_number_of_pages_are_refused(make_rank):
    cache = make_rank(key_unit=KeyUnit.BIGRAM).cache
    match = cache.match([])
    with pytest.raises(LayoutError, match="7 bigrams are no whole number of pages of 4"):
        cache.insert(match, list(range(8)), {"full": [0, 1], "swa": [0, 1]})
    with pytest.raises(LayoutError, match="key_unit='bigram' is no KeyUnit"):
        make_rank(key_unit="bigram")


def test_tokens_and_bigrams_do_not_share_pages_of_a_store(make_rank):
    tokens = list(range(41))
    first = make_rank()
    prefill(first.cache, tokens[:40])
    second = make_rank(key_unit=KeyUnit.BIGRAM, store=first.store)
    second.cache.prefetch(tokens)
    (record,) = second.cache.drain()
    assert record.num_hit_tokens == 0
