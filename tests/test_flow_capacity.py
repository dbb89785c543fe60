"""Requests larger than a pool: defects that were found when they met an eviction."""

from __future__ import annotations

import pytest
from ranks import PAGE_SIZE, Rank, Ranks
from spans import W, fill_stores, make_tokens, prefetch, prefill

from hicache_ext.agreement.local import LocalGroup
from hicache_ext.flow.record import Outcome
from hicache_ext.tier import Tier


def test_what_cannot_fit_evicts_nothing() -> None:
    """A request, a load-back or a backup larger than the pool emptied the pool and then failed."""
    rank = Rank(0, LocalGroup(), num_device=8, num_host=24)
    cache = rank.cache
    cache.release(prefill(rank, 6))
    cache.drain()
    assert cache.alloc({"full": 9, "swa": 1}) is None
    assert rank.device["full"].num_free == 2
    tokens = make_tokens(10, start=500)
    fill_stores([rank], tokens)  # type: ignore[arg-type]
    cache.prefetch(tokens)
    cache.drain()
    match = cache.match(tokens[:-1])
    assert match.num_host_tokens == 10 * PAGE_SIZE
    cache.load_back(match)
    assert cache.drain()[0].outcome == Outcome.CAPACITY
    assert rank.device["full"].num_free == 2
    cache.release(match)
    rank.close()

    rank = Rank(0, LocalGroup(), num_device=16, num_host=8)
    rank.cache.release(prefill(rank, 6))
    rank.cache.drain()
    rank.cache.evict(Tier.DEVICE, {"full": 6})
    rank.cache.release(prefill(rank, 9, start=500))
    assert rank.cache.drain()[0].outcome == Outcome.CAPACITY
    assert rank.host["full"].num_free == 2
    rank.close()


@pytest.mark.parametrize("num_host", [2, W, 6])
def test_a_hit_larger_than_the_host_of_one_rank_is_cut_to_what_fits_there(num_host: int) -> None:
    """Nothing of it was restored. The capacity is one more bound on a rank's endpoints."""
    ranks = Ranks(2, num_host=[32, num_host])
    tokens = make_tokens(8)
    fill_stores(ranks, tokens)
    for record in prefetch(ranks, tokens):
        assert record.outcome == Outcome.COMMITTED
        assert record.num_agreed_tokens == num_host * PAGE_SIZE
        assert record.num_attached_pages == {"swa": min(W, num_host)}
    ranks.close()
