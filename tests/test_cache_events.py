"""What a cache tells: events of L1 and L2 as a router hears them, and the records of requests."""

from __future__ import annotations

import pytest
import ranks  # not from: one depth of the tick is enough here
from router import Router

from hicache_ext.agreement.local import LocalGroup
from hicache_ext.errors import HiCacheError, LayoutError, TreeError
from hicache_ext.events import block_hash
from hicache_ext.history import History, Matched
from hicache_ext.keys import page_keys
from hicache_ext.namespace import Namespace
from hicache_ext.tier import Tier
from hicache_ext.tree import KeyUnit
from hicache_ext.tree.key import pack_tokens

PAGE = ranks.PAGE_SIZE


@pytest.fixture
def make_rank():
    made = []

    def make(**kwargs):
        made.append(ranks.Rank(0, LocalGroup(), **kwargs))
        return made[-1]

    yield make
    for rank in made:
        rank.close()


def prefill(cache, tokens, namespace=b"", request=None):
    """Computes all whole pages of `tokens`; the tree has them, and so have L2 and L3."""
    unit = cache.config.key_unit
    num_pages = (len(tokens) - unit.num_words + 1) // PAGE
    match = cache.match(tokens, namespace, request=request)
    done = len(match.pages["full"])
    new = cache.alloc({"full": num_pages - done, "swa": num_pages - done})
    pages = {name: match.pages[name] + new[name] for name in new}
    cache.insert(match, tokens[: num_pages * PAGE + unit.num_words - 1], pages)
    cache.release(match)
    cache.drain()


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


# --- explain --------------------------------------------------------------------------------------


def test_explain_tells_where_the_tokens_came_from(make_rank):
    tokens = list(range(43))
    first = make_rank()
    prefill(first.cache, tokens[:40])
    cache = make_rank(store=first.store).cache
    op_id = cache.prefetch(tokens, request="r1")
    assert str(cache.explain("r1")).endswith("committed 0: in flight")
    cache.drain()
    match = cache.match(tokens[:-1], request="r1")
    cache.load_back(match)
    cache.drain()
    record = cache.explain("r1")
    assert record.num_matched_tokens == {Tier.DEVICE: 0, Tier.HOST: 40, Tier.STORAGE: 40}
    assert record.lines() == [
        "request 'r1'",
        "matched 0 tokens on the device and 40 on the host, of 42",
        "lost 2 tokens: in no page of the device or the host",
        f"prefetch {op_id} of tokens 0 to 40: "
        "hit 40, agreed 40, loaded 40, committed 40: committed",
        "window of 3 swa pages, of which joined the tree: 3 swa pages",
        "load-back of 10 full pages, 3 swa pages: committed",
    ]
    assert cache.explain(op_id).prefetch is record.prefetch
    cache.match(tokens[:-1], request="r1")
    assert cache.explain("r1").num_matched_tokens[Tier.DEVICE] == 40


def test_explain_gives_the_reason_of_each_loss(make_rank):
    tokens = list(range(41))
    first = make_rank()
    prefill(first.cache, tokens[:40])
    keys = page_keys(pack_tokens(tokens), PAGE)
    first.store.remove("swa", keys[6:])  # no window ends behind page 5
    cache = make_rank(store=first.store).cache
    cache.prefetch(tokens, request="half")
    cache.drain()
    told = str(cache.explain("half"))
    assert "hit 24, agreed 24, loaded 24, committed 24: committed" in told
    assert "lost 16 tokens: not in the store" in told
    first.cache.match(list(range(1000, 1020)), request="cold")
    assert "lost 20 tokens: in no page" in str(first.cache.explain("cold"))
    for rank_tokens, why in ((tokens, "nothing lacks"), ([1], "nothing lacks")):
        assert first.cache.prefetch(rank_tokens, request="none") is None
        assert why in str(first.cache.explain("none"))
    first.cache.detach_store()
    first.cache.drain()
    first.cache.prefetch(list(range(500, 600)), request="none")
    assert "no prefetch: no store" in str(first.cache.explain("none"))


def test_explain_tells_of_full_pages_without_their_window(make_rank):
    cache = make_rank().cache
    tokens = list(range(40))
    prefill(cache, tokens)
    cache.flush(Tier.HOST)
    cache.evict(Tier.DEVICE, {"swa": 7})  # the newest window stays
    assert cache.match(tokens).num_tokens == 40
    assert cache.match(tokens[:20], request="r").num_tokens == 0
    assert "lost 20 tokens: their FULL pages are there, but no window or state ends between 0" in (
        str(cache.explain("r"))
    )


def test_explain_tells_why_nothing_was_loaded_back(make_rank):
    cache = make_rank(load_back_threshold_tokens=9).cache
    tokens = list(range(40))
    prefill(cache, tokens)
    cache.flush(Tier.DEVICE)
    short, long = cache.match(tokens[:8], request="s"), cache.match(tokens, request="l")
    assert cache.load_back(short) is cache.load_back(long, max_tokens=39) is None
    assert "no load-back: 8 tokens on the host are below the threshold of 9" in str(
        cache.explain("s")
    )
    assert "no load-back: 40 tokens on the host are more than the quota of 39" in str(
        cache.explain("l")
    )
    cache.load_back(long)
    cache.drain()
    assert "no load-back" not in str(cache.explain("l"))


def test_only_so_many_requests_are_kept_and_the_oldest_go_first():
    history = History(max_requests=3)
    for name in ("a", "b", "c"):
        history.matched(name, Matched(8, 4, 4, 4))
    history.matched("a", Matched(8, 8, 8, 8))
    history.matched("d", Matched(8, 0, 0, 0))
    history.matched(None, Matched(8, 0, 0, 0))
    assert [history.get(name).name for name in "acd"] == ["a", "c", "d"]
    assert history.get("a").matched.num_device == 8
    with pytest.raises(HiCacheError, match="'b' is not known: 3 of at most 3 are kept"):
        history.get("b")
