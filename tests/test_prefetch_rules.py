"""Which prefetches begin, and which are asked again."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
from manual_io import ManualIo
from prefetches import ask, finish, lost
from ranks import PAGE_SIZE, Ranks
from spans import fill_stores, hit_pages, make_tokens, num_attached, prefetch

from hicache_ext.errors import LayoutError
from hicache_ext.flow import span as span_module
from hicache_ext.flow.op import Phase
from hicache_ext.flow.prefetch_rules import PrefetchRules, Refusal
from hicache_ext.flow.record import Loss, Outcome, PrefetchRecord
from hicache_ext.tier import Tier


@pytest.fixture(params=[1, 2])
def num_ranks(request: pytest.FixtureRequest) -> int:
    return request.param


# -- refusals ----------------------------------------------------------------------------------


def test_what_is_refused_is_not_hashed(num_ranks: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The keys of a long prompt were made before the threshold was looked at."""
    hashed: list[int] = []
    page_keys = span_module.page_keys

    def counted(tokens: bytes, *args: Any) -> list[bytes]:
        hashed.append(len(tokens))
        return page_keys(tokens, *args)

    monkeypatch.setattr(span_module, "page_keys", counted)
    rules = PrefetchRules(threshold_tokens=3 * PAGE_SIZE, max_tokens=6 * PAGE_SIZE)
    ranks = Ranks(num_ranks, make_io=ManualIo, prefetch=rules)
    assert ask(ranks, make_tokens(2)) == Refusal.BELOW_THRESHOLD
    assert ask(ranks, [1, 2]) == Refusal.NOTHING_LACKS
    assert hashed == []
    assert ask(ranks, make_tokens(4)) == 1
    assert ask(ranks, make_tokens(3, start=500)) == Refusal.RATE_LIMITED
    assert len(hashed) == num_ranks
    refusals = {"below_threshold": 1, "nothing_lacks": 1, "rate_limited": 1}
    assert ranks.each(lambda r: r.cache.stats.num_refusals) == [refusals] * num_ranks
    finish(ranks)
    ranks.close()


def test_tokens_in_flight_are_bounded(num_ranks: int) -> None:
    """A hit counts less than its span; what has ended counts nothing."""
    ranks = Ranks(num_ranks, make_io=ManualIo, prefetch=PrefetchRules(max_tokens=8 * PAGE_SIZE))
    first, second = make_tokens(6), make_tokens(6, start=500)
    keys = fill_stores(ranks, first)
    fill_stores(ranks, second)
    ranks.each(lambda r: r.store.remove("full", keys[2:]))
    assert ask(ranks, first) == 1 and ask(ranks, second) == Refusal.RATE_LIMITED
    ranks.tick()
    ranks.each(lambda r: r.io.run())
    ranks.tick()  # two pages are agreed
    assert ask(ranks, second) == 2 and ask(ranks, make_tokens(1, start=900)) == Refusal.RATE_LIMITED
    finish(ranks)
    assert ranks[0].cache._prefetches.num_pages == 0
    assert hit_pages(ranks, first) == 2 and hit_pages(ranks, second) == 6
    ranks.close()


def test_a_span_longer_than_the_limit_is_cut_and_the_next_goes_on(num_ranks: int) -> None:
    ranks = Ranks(num_ranks, prefetch=PrefetchRules(max_tokens=5 * PAGE_SIZE + 1))
    tokens = make_tokens(8)
    fill_stores(ranks, tokens)
    for num_pages in (5, 3):
        for record in prefetch(ranks, tokens):
            assert record.num_span_tokens == record.num_committed_tokens == num_pages * PAGE_SIZE
            assert lost(record) == {}
    assert hit_pages(ranks, tokens) == 8
    ranks.close()


@pytest.mark.parametrize(
    "bad",
    [
        {"timeout_s": -1},
        {"timeout_s": math.inf},
        {"timeout_s": math.nan},
        {"timeout_s_per_1k_tokens": -0.1},
        {"threshold_tokens": -1},
        {"max_tokens": 0},
        {"max_tokens": 7, "threshold_tokens": 8},
        {"max_queries": 0},
        {"retry_ticks": 0},
    ],
    ids=str,
)
def test_bad_rules(bad: dict[str, Any]) -> None:
    name, value = next(iter(bad.items()))
    with pytest.raises(LayoutError, match=f"prefetch {name}={value}"):
        PrefetchRules(**bad)


def on_the_device_alone(ranks: Ranks, num_pages: int) -> None:
    """Pages of which no host copy is made: they are inserted into the tree itself."""
    tokens = list(range(num_pages * PAGE_SIZE))
    for rank in ranks:
        pages = rank.cache.alloc({"full": num_pages, "swa": num_pages})
        assert pages is not None
        given = {name: list(ids) for name, ids in pages.items()}
        result = rank.cache.tree.insert(tokens, given)
        rank.cache.pools.settle(Tier.DEVICE, given, result.released)


@pytest.mark.parametrize(("num_stored", "num_gained"), [(4, 0), (5, 1), (6, 2)])
@pytest.mark.parametrize("threshold", [0, 2])
def test_what_the_device_has_is_no_gain(
    num_ranks: int, num_stored: int, num_gained: int, threshold: int
) -> None:
    ranks = Ranks(num_ranks, prefetch=PrefetchRules(threshold_tokens=threshold * PAGE_SIZE))
    tokens = make_tokens(8, start=0)
    keys = fill_stores(ranks, tokens)
    ranks.each(lambda r: r.store.remove("full", keys[num_stored:]))
    on_the_device_alone(ranks, 4)
    assert ask(ranks, tokens[: (4 + threshold) * PAGE_SIZE]) in (
        Refusal.BELOW_THRESHOLD,
        Refusal.NOTHING_LACKS,
    )
    for record in prefetch(ranks, tokens):
        assert (record.num_matched_tokens, record.num_device_tokens) == (0, 4 * PAGE_SIZE)
        lost(record)
        if num_gained == 0:
            assert record.outcome == Outcome.MISS
        elif num_gained < threshold:
            assert record.outcome == Outcome.BELOW_THRESHOLD
        else:
            assert record.outcome == Outcome.COMMITTED
            assert record.num_agreed_tokens == num_stored * PAGE_SIZE
    ranks.check_idle()
    ranks.close()


# -- asked again -------------------------------------------------------------------------------

AGAIN = PrefetchRules(max_queries=3, retry_ticks=4)


def num_queries(ranks: Ranks) -> set[int]:
    return {r.cache._prefetches[1].record.num_queries for r in ranks}


def test_a_miss_is_asked_again_at_a_pace(num_ranks: int, tick_depth: int) -> None:
    """Its producer stores it after the first query. Nobody is blocked, no slot and no lock held."""
    ranks = Ranks(num_ranks, num_slots=1, prefetch=AGAIN)
    tokens, other = make_tokens(6), make_tokens(4, start=500)
    fill_stores(ranks, other)
    ask(ranks, tokens)
    assert ranks.tick() == [[]] * num_ranks and num_queries(ranks) == {1}
    fill_stores(ranks, tokens)
    assert not ranks[0].cache.tree._state.receipts
    assert prefetch_of(ranks, other).outcome == Outcome.COMMITTED
    assert num_queries(ranks) <= {1, 2}
    for (record,) in ranks.drain():
        assert (record.op_id, record.num_queries) == (1, 2)
        assert record.outcome == Outcome.COMMITTED and lost(record) == {}
    assert hit_pages(ranks, tokens) == 6
    ranks.close()


def prefetch_of(ranks: Ranks, tokens: list[int]) -> PrefetchRecord:
    """Runs one to its end beside others."""
    op_id = ask(ranks, tokens)
    for _ in range(12):
        for record in ranks.tick()[0]:
            if record.op_id == op_id:
                return record
    raise AssertionError(f"op {op_id} does not end")


def test_the_pause_and_the_number_of_queries(num_ranks: int, tick_depth: int) -> None:
    ranks = Ranks(num_ranks, prefetch=AGAIN)
    ask(ranks, make_tokens(6))
    asked = []  # at which ticks
    for step in range(40):
        before = len(asked)
        ranks.each(lambda r: r.cache.publish())
        if 1 in ranks[0].cache._prefetches._ops and num_queries(ranks) == {before + 1}:
            asked.append(step)
        ended = ranks.each(lambda r: r.cache.apply())
        if ended[0]:
            break
    pace = AGAIN.retry_ticks + tick_depth
    assert asked == [0, pace, 2 * pace]
    for (record,) in ended:
        assert record.outcome == Outcome.MISS and record.num_queries == 3
        assert lost(record) == {Loss.NOT_STORED: 6}
    ranks.close()


def test_who_polls_does_not_wait_for_another_query(num_ranks: int) -> None:
    ranks = Ranks(num_ranks, prefetch=AGAIN)
    ask(ranks, make_tokens(6))
    ranks.tick()
    assert ranks.each(lambda r: r.cache.poll(1)) == [True] * num_ranks
    for (record,) in ranks.drain():
        assert record.outcome == Outcome.MISS and record.num_queries == 1
    ranks.close()


def test_who_has_polled_before_the_miss_does_not_wait_either(num_ranks: int) -> None:
    ranks = Ranks(num_ranks, prefetch=AGAIN)
    ask(ranks, make_tokens(6))
    ranks.each(lambda r: r.cache.poll(1))
    assert [mine[0].outcome for mine in ranks.tick()] == [Outcome.MISS] * num_ranks
    ranks.close()


def test_an_abort_on_one_rank_while_it_rests(num_ranks: int) -> None:
    ranks = Ranks(num_ranks, prefetch=AGAIN)
    tokens = make_tokens(6)
    ask(ranks, tokens)
    ranks.tick()
    fill_stores(ranks, tokens)
    assert ranks[0].cache.abort(1)
    for (record,) in ranks.drain():
        assert record.outcome == Outcome.ABORTED and lost(record) == {Loss.ABORTED: 6}
    assert num_attached(ranks, "full") == {0}
    ranks.check_idle()
    ranks.close()


def test_close_while_it_rests() -> None:
    ranks = Ranks(2, prefetch=AGAIN)
    ask(ranks, make_tokens(6))
    ranks.tick()
    op = ranks[0].cache._prefetches[1]
    ranks.each(lambda r: r.cache.close())
    assert op.record.outcome == Outcome.ABORTED and op.phase == Phase.DONE
    assert ranks.each(lambda r: r.cache.num_in_flight) == [0, 0]
    ranks.check_idle()
    ranks.close()


@pytest.mark.parametrize("what", ["computed", "lost", "detached"])
def test_the_tree_has_changed_while_it_rested(num_ranks: int, what: str) -> None:
    """It looks anew for what lacks, from the anchor that there is now."""
    ranks = Ranks(num_ranks, prefetch=replace(AGAIN, retry_ticks=40))
    tokens = make_tokens(8)
    keys = fill_stores(ranks, tokens)
    prefetch(ranks, tokens[: 4 * PAGE_SIZE + 1])
    ranks.each(lambda r: r.store.remove("full", keys[4:]))
    op_id = ask(ranks, tokens)
    ranks.tick()
    if what == "computed":
        ranks.each(lambda r: r.put("full", keys[4:]))
        assert prefetch_of(ranks, tokens).outcome == Outcome.COMMITTED
    elif what == "lost":
        ranks.each(lambda r: r.put("full", keys))
        ranks.each(lambda r: r.cache.evict(Tier.HOST, {"full": 4}))
    else:
        ranks.each(lambda r: r.cache.detach_store())
    for mine in ranks.drain():
        record = next(r for r in mine if r.op_id == op_id)
        lost(record)
        want = {"computed": Outcome.MISS, "lost": Outcome.COMMITTED, "detached": Outcome.MISS}
        assert record.outcome == want[what]
        assert record.num_queries == (2 if what == "lost" else 1)
        # It counts for no more than it asked for first.
        assert record.num_span_tokens == 4 * PAGE_SIZE
    assert hit_pages(ranks, tokens) == (8 if what == "computed" else 4)
    ranks.close()
