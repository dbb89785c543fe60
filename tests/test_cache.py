"""HiCache as a serving loop uses it: down to L2 and L3, up again, in the same and a fresh cache."""

from __future__ import annotations

import pytest
from ranks import NUM_LAYERS, PAGE_SIZE, WINDOW, Rank, Ranks, check_device, make_pools, publish

from hicache_ext.agreement.local import LocalGroup
from hicache_ext.cache import HiCache
from hicache_ext.config import CacheConfig
from hicache_ext.errors import (
    AgreementError,
    CapacityError,
    HiCacheError,
    LayoutError,
    PageIndexError,
    TreeError,
)
from hicache_ext.flow.record import BackupRecord, LoadBackRecord, Outcome
from hicache_ext.keys import page_keys
from hicache_ext.layout import LayoutSpec
from hicache_ext.pool import PageState
from hicache_ext.tier import Tier
from hicache_ext.tree.key import pack_tokens

W = 3


def serve(rank: Rank, tokens: list[int], chunk_pages: int = 4) -> None:
    """Prefills `tokens` in chunks, as a server would: match, alloc, forward, insert, tick."""
    cache = rank.cache
    num_pages = len(tokens) // PAGE_SIZE
    match = cache.match(tokens[: num_pages * PAGE_SIZE])
    while len(match.pages["full"]) < num_pages:
        done = len(match.pages["full"])
        num_new = min(chunk_pages, num_pages - done)
        new = cache.alloc({"full": num_new, "swa": num_new})
        assert new is not None
        upto = tokens[: (done + num_new) * PAGE_SIZE]
        # The forward pass writes the new pages only.
        holes = [-1] * done
        rank.write_device(upto, {name: holes + ids for name, ids in new.items()})
        pages = {name: match.pages[name] + new[name] for name in new}
        cache.insert(match, upto, pages)
        cache.tick()
    cache.release(match)
    cache.drain()


@pytest.fixture
def rank():
    made = Rank(0, LocalGroup(), num_device=24, num_host=48)
    yield made
    made.close()


def test_down_to_host_and_store_and_back(rank: Rank) -> None:
    tokens = list(range(10 * PAGE_SIZE))
    serve(rank, tokens)
    keys = page_keys(pack_tokens(tokens), PAGE_SIZE, b"")
    assert rank.store.exists("full", keys) == [True] * 10
    assert rank.store.exists("swa", keys) == [True] * 10
    rank.check_host(tokens)

    rank.cache.flush(Tier.DEVICE)
    match = rank.cache.match(tokens)
    assert (match.num_device_tokens, match.num_host_tokens) == (0, 40)
    op_id = rank.cache.load_back(match)
    (record,) = rank.cache.drain()
    assert isinstance(record, LoadBackRecord) and record.op_id == op_id
    assert record.num_pages == {"full": 10, "swa": W} or record.num_pages["swa"] >= W
    assert match.num_device_tokens == 40 and match.num_host_tokens == 0
    assert match.pages["swa"][:-W] == [-1] * (10 - W) and min(match.pages["swa"][-W:]) >= 0
    check_device(rank, tokens, match.pages)
    assert rank.cache.load_back(match) is None
    rank.cache.release(match)
    rank.cache.check_integrity()


def test_a_fresh_cache_restores_from_the_store(rank: Rank) -> None:
    tokens = list(range(10 * PAGE_SIZE + 1))
    serve(rank, tokens)
    fresh = Rank(0, LocalGroup(), store=rank.store)
    assert fresh.cache.match(tokens[:-1]).num_tokens == 0
    fresh.cache.prefetch(tokens)
    fresh.cache.drain()
    match = fresh.cache.match(tokens[:-1])
    assert match.num_host_tokens == 40
    fresh.cache.load_back(match)
    fresh.cache.drain()
    check_device(fresh, tokens, match.pages)
    fresh.cache.check_integrity()
    fresh.close()


def test_eviction_under_load_keeps_every_ledger(rank: Rank) -> None:
    """More sequences than either tier holds: everything is evicted and nothing leaks."""
    for turn in range(12):
        tokens = list(range(turn * 1000, turn * 1000 + 8 * PAGE_SIZE))
        serve(rank, tokens)
        rank.cache.check_integrity()
    for pool in (*rank.device.values(), *rank.host.values()):
        counts = pool.allocator.counts()
        assert counts[PageState.RESERVED] == counts[PageState.IO] == 0
        assert counts[PageState.FREE] + counts[PageState.ATTACHED] == pool.allocator.capacity
    # The newest is still there, the oldest only in the store.
    assert rank.cache.match(tokens).num_tokens == 8 * PAGE_SIZE


def test_the_same_prompt_twice_frees_the_duplicates(rank: Rank) -> None:
    """Two requests prefill the same tokens at once; the second learns the ids of the first."""
    tokens = list(range(4 * PAGE_SIZE))
    cache = rank.cache
    first, second = cache.match(tokens), cache.match(tokens)
    pages = [cache.alloc({"full": 4, "swa": 4}) for _ in range(2)]
    cache.insert(first, tokens, pages[0])
    cache.insert(second, tokens, pages[1])
    assert first.pages == second.pages and first.pages["full"] == pages[0]["full"]
    assert rank.device["full"].allocator.counts()[PageState.ATTACHED] == 4
    cache.release(first), cache.release(second)
    cache.check_integrity()


def test_backup_without_room_on_the_host_is_dropped_not_lost() -> None:
    """Host memory for less than one sequence: backups fail with a reason, the device keeps all."""
    rank = Rank(0, LocalGroup(), num_device=24, num_host=2)
    tokens = list(range(8 * PAGE_SIZE))
    cache = rank.cache
    match = cache.match(tokens)
    pages = cache.alloc({"full": 8, "swa": 8})
    cache.insert(match, tokens, pages)
    (record,) = cache.drain()
    assert isinstance(record, BackupRecord) and record.outcome == Outcome.CAPACITY
    cache.release(match)
    assert cache.match(tokens).num_device_tokens == 8 * PAGE_SIZE
    cache.check_integrity()
    rank.close()


def test_alloc_evicts_and_says_none_when_all_is_locked(rank: Rank) -> None:
    tokens = list(range(12 * PAGE_SIZE))
    serve(rank, tokens)
    assert rank.cache.alloc({"full": 24, "swa": 1}) is not None  # evicted the 12
    rank2 = Rank(0, LocalGroup(), num_device=8)
    match = rank2.cache.match(tokens)
    pages = rank2.cache.alloc({"full": 8, "swa": 8})
    rank2.cache.insert(match, tokens[: 8 * PAGE_SIZE], pages)
    assert rank2.cache.alloc({"full": 1}) is None
    rank2.cache.drain()
    rank2.close()


def test_namespaces_do_not_meet(rank: Rank) -> None:
    tokens = list(range(4 * PAGE_SIZE))
    serve(rank, tokens)
    assert rank.cache.match(tokens).num_tokens == 16
    assert rank.cache.match(tokens, namespace=b"lora-7").num_tokens == 0


def test_a_rank_that_never_ticks_is_an_error_on_the_others() -> None:
    ranks = Ranks(2, tick_deadline_s=0.2)
    tokens = list(range(6 * PAGE_SIZE + 1))
    ranks.each(lambda r: r.cache.prefetch(tokens))
    with pytest.raises(AgreementError, match=r"ranks \[1\] have not issued"):
        ranks[0].tick()
    with pytest.raises(AgreementError, match="no longer agree"):
        ranks[0].cache.match(tokens)
    ranks.each(lambda r: r.cache.close())
    ranks.each(lambda r: r.check_ledger())
    for rank in ranks:
        counts = rank.host["full"].allocator.counts()
        assert counts[PageState.FREE] == rank.host["full"].allocator.capacity
    ranks.close()


def test_publish_and_apply_take_turns(rank: Rank) -> None:
    with pytest.raises(HiCacheError, match="without a publish"):
        rank.cache.apply()
    rank.cache.publish()
    with pytest.raises(HiCacheError, match="publish twice"):
        rank.cache.publish()
    assert rank.cache.apply() == []
    rank.cache.tick()


def test_ranks_that_make_different_calls_are_told(rank: Rank) -> None:
    ranks = Ranks(2)
    ranks[0].cache.prefetch(list(range(6 * PAGE_SIZE + 1)))
    publish(ranks)
    for one in ranks:
        with pytest.raises(AgreementError):
            one.cache.apply()
    ranks.close()


@pytest.mark.parametrize("window", [0, -1])
def test_a_window_of_zero_is_refused(window: int) -> None:
    with pytest.raises(LayoutError, match=f"window_tokens={window}"):
        CacheConfig(PAGE_SIZE, window)


def test_pools_that_do_not_fit_are_refused() -> None:
    device, host = make_pools(4, 4)
    with pytest.raises(LayoutError, match="page_size"):
        HiCache(CacheConfig(8, WINDOW), device, host)
    with pytest.raises(LayoutError, match="components"):
        HiCache(CacheConfig(PAGE_SIZE, None), device, host)
    with pytest.raises(LayoutError, match="differ"):
        HiCache(CacheConfig(PAGE_SIZE, WINDOW), device, {"full": host["full"]})


def test_a_store_needs_contiguous_host_pages() -> None:
    device, host = make_pools(4, 4)
    shape = {"page_size": PAGE_SIZE, "num_heads": 2, "head_bytes": 16}
    for name, num_layers in NUM_LAYERS.items():
        spec = LayoutSpec.make("layer_first", num_pages=4, num_layers=num_layers, **shape)
        host[name] = type(host[name])(spec, name=name)
    with pytest.raises(LayoutError, match="layer_first"):
        HiCache(CacheConfig(PAGE_SIZE, WINDOW), device, host, store=object())  # type: ignore[arg-type]


def test_misuse_is_told(rank: Rank) -> None:
    tokens = list(range(4 * PAGE_SIZE))
    match = rank.cache.match(tokens)
    with pytest.raises(LayoutError, match="13 tokens"):
        rank.cache.insert(match, tokens[:13], {"full": [], "swa": []})
    pages = rank.cache.alloc({"full": 4, "swa": 4})
    for bad in ([0, 1, 2, 9], [0, 1, 2, 24]):
        with pytest.raises((CapacityError, PageIndexError), match=r"9|24"):
            rank.cache.insert(match, tokens, {"full": bad, "swa": pages["swa"]})
    rank.cache.insert(match, tokens, pages)
    with pytest.raises(CapacityError, match="page 0 at position 0 is ATTACHED"):
        rank.cache.free(pages)
    with pytest.raises(TreeError, match="do not begin"):
        rank.cache.insert(match, [9] * 16, pages)
    rank.cache.check_integrity()
    rank.cache.drain()
    rank.cache.release(match)
    with pytest.raises(TreeError, match="released already"):
        rank.cache.release(match)
    rank.cache.prefetch(range(50, 90))
    with pytest.raises(TreeError, match="in flight"):
        rank.cache.flush()
    rank.cache.close()
    with pytest.raises(HiCacheError, match="closed"):
        rank.cache.match(tokens)


def test_cache_makes_its_group_and_leaves_it():
    rank = Rank(0, "auto")
    assert rank.cache.group.kind == "local" and rank.cache.group.why == "there is one rank"
    rank.cache.tick()
    rank.close()
    with pytest.raises(AgreementError, match="closed"):
        rank.cache.group.ready()
    group = LocalGroup()
    Rank(0, group).close()
    assert not group.ready()  # the caller's own stays
