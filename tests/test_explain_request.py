"""explain(): what became of a request, in words."""

from __future__ import annotations

import pytest
from cache_makers import PAGE, make_rank, prefill

from hicache_ext.errors import HiCacheError
from hicache_ext.history import History, Matched
from hicache_ext.keys import page_keys
from hicache_ext.tier import Tier
from hicache_ext.tree.key import pack_tokens

__all__ = ["make_rank"]  # a fixture


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


def test_explain_tells_of_backups_and_of_retraction(make_rank):
    cache = make_rank().cache
    tokens = list(range(16))
    match = cache.match(tokens, request="r")
    pages = cache.alloc({"full": 4, "swa": 4})
    cache.insert(match, tokens, pages)
    assert cache.explain("r").backup is None  # it begins at the tick
    cache.drain()
    op_id = cache.explain("r").backup.op_id
    told = cache.explain("r").lines()
    assert told[-2:] == [
        f"backup {op_id}, for 1 requests, of 4 full pages, 4 swa pages: committed",
        "new in L3: 4 full pages, 4 swa pages",
    ]
    parked = cache.park(match, 16, match.pages)
    assert cache.explain("r").lines()[-1] == "park of 4 full pages, 3 swa pages: in flight"
    cache.drain()
    cache.restore(parked)
    cache.drain()
    assert cache.explain("r").lines()[-1] == "restore of 4 full pages, 3 swa pages: committed"
    assert cache.explain("r").backup.op_id == op_id


def test_explain_tells_of_pages_that_did_not_come_to_l3(make_rank):
    rank = make_rank()
    rank.store.write_from = lambda pool, keys, pages, limit=None: [False] * len(keys)
    match = rank.cache.match(range(8), request="r")
    rank.cache.insert(match, range(8), rank.cache.alloc({"full": 2, "swa": 2}))
    rank.cache.drain()
    assert "lost 4 pages of it for L3: not_written" in rank.cache.explain("r").lines()


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
