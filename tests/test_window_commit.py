"""All or nothing: the prefetched window joins the tree on every rank or on none.

page_size 4, window 10, so w = 3 pages; simulated ranks, each with a store of its own. After each
tick the trees of all ranks are compared and the ledgers are checked (`Ranks.tick`).
"""

from __future__ import annotations

import pytest
from ranks import PAGE_SIZE, Rank, Ranks
from spans import W, fill_stores, hit_pages, make_tokens, num_attached, prefetch

from hicache_ext.flow.prefetch_rules import PrefetchRules, ShortWindow
from hicache_ext.flow.record import Outcome
from hicache_ext.tier import Tier


@pytest.fixture
def ranks():
    made = Ranks(2)
    yield made
    made.close()


@pytest.mark.parametrize("num_pages", [W, W + 1, 8])
def test_window_from_the_root(ranks: Ranks, num_pages: int) -> None:
    """Exact fit (span == w) and longer: the last w pages get their window."""
    tokens = make_tokens(num_pages)
    fill_stores(ranks, tokens)
    for record in prefetch(ranks, tokens):
        assert record.outcome == Outcome.COMMITTED and not record.losses
        assert record.num_span_tokens == num_pages * PAGE_SIZE
        assert record.num_window_pages == {"swa": W}
        assert record.num_attached_pages == {"swa": W}
        assert record.num_committed_tokens == num_pages * PAGE_SIZE
    assert num_attached(ranks, "full") == {num_pages} and num_attached(ranks, "swa") == {W}
    assert hit_pages(ranks, tokens) == num_pages


def test_exact_fit_in_mid_tree(ranks: Ranks) -> None:
    """A span of just w pages below a node brings its own window."""
    tokens = make_tokens(4 + W)
    fill_stores(ranks, tokens)
    prefetch(ranks, tokens[: 4 * PAGE_SIZE + 1])
    for record in prefetch(ranks, tokens):
        assert record.num_matched_tokens == 4 * PAGE_SIZE
        assert record.num_window_pages == {"swa": W}
    assert hit_pages(ranks, tokens) == 4 + W


def test_short_span_at_the_root_is_its_own_window(ranks: Ranks) -> None:
    tokens = make_tokens(2)
    fill_stores(ranks, tokens)
    for record in prefetch(ranks, tokens):
        assert record.num_window_pages == {"swa": 2} == record.num_attached_pages
    assert hit_pages(ranks, tokens) == 2


def test_short_span_in_mid_tree_joins_the_window_before_it(ranks: Ranks) -> None:
    """Fewer than w pages below a node: they and what lies before them are a window.

    It was asked for without one: the match stayed where it was, and each prefetch read it anew.
    """
    tokens = make_tokens(4 + W - 1)
    fill_stores(ranks, tokens)
    prefetch(ranks, tokens[: 4 * PAGE_SIZE + 1])
    for record in prefetch(ranks, tokens):
        assert record.outcome == Outcome.COMMITTED
        assert record.num_window_pages == {"swa": W - 1} == record.num_attached_pages
    assert num_attached(ranks, "full") == {4 + W - 1} and num_attached(ranks, "swa") == {2 * W - 1}
    assert hit_pages(ranks, tokens) == 4 + W - 1
    assert ranks.each(lambda r: r.cache.prefetch(tokens)) == [None, None]


def test_the_span_leaves_one_token_to_compute(ranks: Ranks) -> None:
    """A prompt of whole pages: its last page cannot be a hit, a later match looks before it."""
    tokens = make_tokens(6)[:-1]
    fill_stores(ranks, tokens)
    for record in prefetch(ranks, tokens):
        assert record.num_span_tokens == record.num_committed_tokens == 5 * PAGE_SIZE
    assert hit_pages(ranks, tokens) == 5


def test_a_hit_in_mid_tree_shorter_than_a_window(ranks: Ranks) -> None:
    """The span could bring a window; what the stores have of it joins the one before it."""
    tokens = make_tokens(4 + W + 1)
    keys = fill_stores(ranks, tokens)
    prefetch(ranks, tokens[: 4 * PAGE_SIZE + 1])
    ranks[1].store.remove("full", keys[4 + W - 1 :])
    for record in prefetch(ranks, tokens):
        assert record.num_attached_pages == {"swa": W - 1}
    assert hit_pages(ranks, tokens) == 4 + W - 1


def test_window_of_a_hit_shorter_than_the_span(ranks: Ranks) -> None:
    """The keys of the window are the last w of the agreed hit, not of the request."""
    tokens = make_tokens(9)
    keys = fill_stores(ranks, tokens)
    ranks[0].store.remove("full", keys[7:])
    ranks[1].store.remove("full", keys[6:])
    for record in prefetch(ranks, tokens):
        assert record.num_agreed_tokens == 6 * PAGE_SIZE
    assert hit_pages(ranks, tokens) == 6


def test_window_of_a_hit_shorter_than_a_window(ranks: Ranks) -> None:
    """A long span from the root, of which the stores have two pages: these are a whole sequence."""
    tokens = make_tokens(9)
    keys = fill_stores(ranks, tokens)
    ranks[1].store.remove("full", keys[2:])
    for record in prefetch(ranks, tokens):
        assert record.num_attached_pages == {"swa": 2}
    assert hit_pages(ranks, tokens) == 2


def test_ranks_agree_on_an_endpoint_that_both_can_restore(ranks: Ranks) -> None:
    """Neither rank's best endpoint is legal on the other: MIN of the two (7) would be garbage."""
    tokens = make_tokens(9)
    keys = fill_stores(ranks, tokens)
    ranks[0].store.remove("swa", [keys[7]])  # legal: 1..7
    ranks[1].store.remove("swa", [keys[4]])  # legal: 1..4, 8, 9
    for record in prefetch(ranks, tokens):
        assert record.num_agreed_tokens == 4 * PAGE_SIZE
    assert hit_pages(ranks, tokens) == 4


def test_no_common_endpoint_is_a_miss(ranks: Ranks) -> None:
    tokens = make_tokens(5)
    keys = fill_stores(ranks, tokens)
    ranks[1].store.remove("full", keys[:1])
    for record in prefetch(ranks, tokens):
        assert record.outcome == Outcome.MISS and record.num_agreed_tokens == 0
    assert hit_pages(ranks, tokens) == 0 and num_attached(ranks, "full") == {0}


def lose_at_read(ranks: Ranks, rank: int, pool: str, key: bytes) -> None:
    """The page shows in `exists` and is gone when it is read."""
    ranks[rank].store.faults.lost_on_read.add((pool, key))


@pytest.mark.parametrize("lost", range(W))
def test_one_rank_short_by_one_window_page(ranks: Ranks, lost: int) -> None:
    """Both ranks drop the window and keep the FULL pages as tombstones."""
    tokens = make_tokens(6)
    keys = fill_stores(ranks, tokens)
    lose_at_read(ranks, 1, "swa", keys[6 - W + lost])
    for record in prefetch(ranks, tokens):
        assert record.outcome == Outcome.COMMITTED
        assert record.num_attached_pages == {"swa": 0} or not record.num_attached_pages
        assert f"swa {lost} of {W}" in record.losses[0].detail
    assert num_attached(ranks, "swa") == {0} and num_attached(ranks, "full") == {6}
    assert hit_pages(ranks, tokens) == 0


def test_strict_drops_the_full_pages_too() -> None:
    ranks = Ranks(2, prefetch=PrefetchRules(short_window=ShortWindow.STRICT))
    tokens = make_tokens(6)
    keys = fill_stores(ranks, tokens)
    lose_at_read(ranks, 1, "swa", keys[4])
    for record in prefetch(ranks, tokens):
        assert record.outcome == Outcome.DROPPED
    assert num_attached(ranks, "full") == {0} == num_attached(ranks, "swa")
    ranks.close()


@pytest.mark.parametrize("rank", [0, 1])
def test_one_rank_short_by_one_full_page(ranks: Ranks, rank: int) -> None:
    """The agreed leading run is kept on both; the window belongs to the lost endpoint."""
    tokens = make_tokens(6)
    keys = fill_stores(ranks, tokens)
    lose_at_read(ranks, rank, "full", keys[4])
    for record in prefetch(ranks, tokens):
        assert record.num_loaded_tokens == 4 * PAGE_SIZE
    assert num_attached(ranks, "full") == {4} and num_attached(ranks, "swa") == {0}
    assert hit_pages(ranks, tokens) == 0


def test_a_later_window_joins_the_tombstones(ranks: Ranks) -> None:
    """It starts inside the edge that was left, which must split; 240 after 256, so to say."""
    tokens = make_tokens(8)
    keys = fill_stores(ranks, tokens)
    lose_at_read(ranks, 1, "swa", keys[6])
    prefetch(ranks, tokens)
    assert hit_pages(ranks, tokens) == 0
    ranks[1].store.faults.lost_on_read.clear()
    ranks[1].store.remove("swa", [keys[6]])
    for record in prefetch(ranks, tokens):
        assert record.num_agreed_tokens == 6 * PAGE_SIZE
        assert record.num_committed_tokens == 0 and record.num_attached_pages == {"swa": W}
    assert num_attached(ranks, "full") == {8} and num_attached(ranks, "swa") == {W}
    assert hit_pages(ranks, tokens) == 6


def test_window_partly_on_nodes_that_have_it(ranks: Ranks) -> None:
    """Two windows overlap by one page: it is attached once and released once."""
    tokens = make_tokens(8)
    keys = fill_stores(ranks, tokens)
    ranks.each(lambda r: r.store.remove("full", keys[5:]))
    prefetch(ranks, tokens)  # windows of 5: pages 2 3 4
    ranks.each(lambda r: r.put("full", keys))
    # A second op from the root whose window is pages 4 5 6: another branch point in between.
    ranks.each(lambda r: r.cache.evict(Tier.HOST, {"swa": W}))
    assert num_attached(ranks, "swa") == {0}
    ranks.each(lambda r: r.store.remove("full", keys[7:]))
    for record in prefetch(ranks, tokens):
        assert record.num_agreed_tokens == 7 * PAGE_SIZE
    assert hit_pages(ranks, tokens) == 7


def test_everything_present_already(ranks: Ranks) -> None:
    """Two prefetches of the same span in flight: the second finds all of it there."""
    tokens = make_tokens(6)
    fill_stores(ranks, tokens)
    ranks.each(lambda r: (r.cache.prefetch(tokens), r.cache.prefetch(tokens)))
    for first, second in ranks.drain():
        assert first.num_attached_pages == {"swa": W}
        assert second.outcome == Outcome.COMMITTED and second.num_committed_tokens == 0
        assert second.num_attached_pages == {"swa": 0}
    assert num_attached(ranks, "full") == {6} and num_attached(ranks, "swa") == {W}
    assert ranks.each(lambda r: r.cache.prefetch(tokens)) == [None, None]
    assert hit_pages(ranks, tokens) == 6


def count_evictions(rank: Rank) -> list[tuple[Tier, dict[str, int]]]:
    """What the flows of this rank evict from now on."""
    calls: list[tuple[Tier, dict[str, int]]] = []
    evict = rank.cache._ctx.evict_for_reserve

    def counted(tier: Tier, num_pages: dict[str, int]) -> None:
        calls.append((tier, dict(num_pages)))
        evict(tier, num_pages)

    rank.cache._ctx.evict_for_reserve = counted
    return calls


@pytest.mark.parametrize("pool", ["full", "swa"])
def test_allocation_failure_on_one_rank_only(ranks: Ranks, pool: str) -> None:
    """The whole prefetch is abandoned on both, and everything is released."""
    tokens = make_tokens(6)
    fill_stores(ranks, tokens)
    held = ranks[1].host[pool].alloc(30)
    evictions = ranks.each(count_evictions)
    for record in prefetch(ranks, tokens):
        assert record.outcome == Outcome.CAPACITY
    num_short = {"full": 4, "swa": 1}[pool]  # the agreed shortage, evicted once on both
    assert evictions == [[(Tier.HOST, {pool: num_short})]] * 2
    assert num_attached(ranks, "full") == {0} == num_attached(ranks, "swa")
    ranks[1].host[pool].free(held)
    ranks.check_idle()
    assert prefetch(ranks, tokens)[0].outcome == Outcome.COMMITTED


def test_one_eviction_and_one_retry(ranks: Ranks) -> None:
    """One rank is short: all evict the same pages, and the second vote passes."""
    old, new = make_tokens(6, start=1000), make_tokens(6)
    fill_stores(ranks, old)
    fill_stores(ranks, new)
    prefetch(ranks, old)
    held = ranks[1].host["swa"].alloc(32 - W - 1)  # one page left where three are needed
    for record in prefetch(ranks, new):
        assert record.outcome == Outcome.COMMITTED
    ranks[1].host["swa"].free(held)
    assert hit_pages(ranks, new) == 6 and hit_pages(ranks, old) == 0
