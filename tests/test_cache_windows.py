"""What a request holds of windows: early release, and where a chunk should end for the next one."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from ranks import PAGE_SIZE, Rank
from test_cache import serve

from hicache_ext.agreement.local import LocalGroup
from hicache_ext.errors import TreeError
from hicache_ext.tier import Tier

W = 3


@pytest.fixture
def rank() -> Iterator[Rank]:
    made = Rank(0, LocalGroup())
    yield made
    made.check_ledger()
    made.close()


def test_windows_that_are_released_early_can_be_evicted_and_the_prefix_stays(rank: Rank) -> None:
    tokens = list(range(8 * PAGE_SIZE))
    serve(rank, tokens)
    cache = rank.cache
    match = cache.match(tokens)
    cache.evict(Tier.DEVICE, {"swa": 99})
    assert cache.tree.page_counts(Tier.DEVICE, "swa").num_protected == W
    cache.release_windows(match)
    assert match.pages["swa"] == [-1] * 8 and len(match.pages["full"]) == 8
    cache.evict(Tier.DEVICE, {"swa": 99, "full": 99})
    counts = [cache.tree.page_counts(Tier.DEVICE, name) for name in ("full", "swa")]
    assert (counts[0].num_protected, counts[1].num_evictable) == (8, 0)
    cache.release(match)


def test_windows_are_not_released_under_a_load_back_nor_of_a_match_that_is_over(rank: Rank) -> None:
    tokens = list(range(8 * PAGE_SIZE))
    serve(rank, tokens)
    rank.cache.flush(Tier.DEVICE)
    match = rank.cache.match(tokens)
    rank.cache.load_back(match)
    with pytest.raises(TreeError, match=r"load-back of node .* is in flight"):
        rank.cache.release_windows(match)
    rank.cache.drain()
    rank.cache.release_windows(match)
    rank.cache.release(match)
    with pytest.raises(TreeError, match="released already"):
        rank.cache.release_windows(match)


def test_a_chunk_that_ends_where_prompts_part_serves_the_next_that_does(rank: Rank) -> None:
    shared = list(range(5 * PAGE_SIZE))
    cache = rank.cache

    def ask(last: int) -> list[int]:
        return [*shared, *range(last, last + 4 * PAGE_SIZE)]

    serve(rank, ask(1000), chunk_pages=9)
    rank.cache.drain()
    cache.evict(Tier.DEVICE, {"swa": 1})  # what lies before the only window
    cache.evict(Tier.HOST, {"swa": 1})
    cache.flush(Tier.HOST)
    match = cache.match(ask(2000))
    assert (match.num_tokens, match.num_branching_tokens) == (0, 5 * PAGE_SIZE)
    cache.release(match)
    serve(rank, ask(2000), chunk_pages=5)
    match = cache.match(ask(3000))
    assert (match.num_tokens, match.num_branching_tokens) == (5 * PAGE_SIZE, None)
    cache.release(match)
