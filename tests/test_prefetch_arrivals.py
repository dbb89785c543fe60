"""What arrives of a prefetch, and what its record says of each token."""

from __future__ import annotations

from typing import Any

import pytest
import ranks as ranks_module
from manual_io import ManualIo
from prefetches import ask, finish, lost
from ranks import PAGE_SIZE, Ranks
from spans import W, fill_stores, hit_pages, keys_of, make_tokens, prefetch

from hicache_ext.flow.prefetch_rules import PrefetchRules, ShortWindow
from hicache_ext.flow.record import Loss, Outcome
from hicache_ext.pool import PageState
from hicache_ext.storage.faulty import Answer


@pytest.fixture(params=[1, 2])
def num_ranks(request: pytest.FixtureRequest) -> int:
    return request.param


def test_host_pages_are_held_for_the_agreed_hit_alone(num_ranks: int) -> None:
    ranks = Ranks(num_ranks, make_io=ManualIo)
    tokens = make_tokens(8)
    keys = fill_stores(ranks, tokens)
    ranks[-1 % num_ranks].store.remove("full", keys[5:])
    ask(ranks, tokens)
    ranks.tick()
    assert num_held(ranks) == {(0, 0)}
    ranks.each(lambda r: r.io.run())
    for _ in range(num_ranks):  # two ranks that differ ask for what they have in common
        ranks.tick()
    assert num_held(ranks) == {(5, W)}
    for record in finish(ranks):
        num_not_common = 3 if num_ranks == 2 else 0
        assert lost(record).get(Loss.NOT_COMMON, 0) == num_not_common
        assert lost(record).get(Loss.NOT_STORED, 0) == 3 - num_not_common
    ranks.close()


def num_held(ranks: Ranks) -> set[tuple[int, ...]]:
    def held(rank: Any) -> tuple[int, ...]:
        counts = [pool.allocator.counts() for pool in rank.host.values()]
        return tuple(c[PageState.RESERVED] + c[PageState.IO] for c in counts)

    return set(ranks.each(held))


@pytest.mark.parametrize("pool", ["full", "swa"])
@pytest.mark.parametrize("call", ["exists", "read_into"])
@pytest.mark.parametrize("how", ["none", "nothing", "short", "raises"])
def test_an_answer_that_is_missing_is_no_hit(
    num_ranks: int, call: str, pool: str, how: str
) -> None:
    """On the last rank. What other pools have delivered is not lost by it."""
    ranks = Ranks(num_ranks)
    tokens = make_tokens(6)
    fill_stores(ranks, tokens)
    store = ranks[num_ranks - 1].store
    honest = getattr(store, call)

    def answer(asked: str, *args: Any) -> Any:
        if asked != pool:
            return honest(asked, *args)
        if how == "raises":
            raise OSError("the store is gone")
        results = honest(asked, *args)
        return {"none": None, "nothing": [], "short": results[: len(results) // 2]}[how]

    setattr(store, call, answer)
    records = prefetch(ranks, tokens)
    num_short = 3 if how == "short" else 0
    for record in records:
        found = lost(record)
        if call == "exists":  # 3 FULL pages of 6, or the windows of 1 to 3
            assert record.num_agreed_tokens == num_short * PAGE_SIZE
            assert record.outcome == (Outcome.COMMITTED if num_short else Outcome.MISS)
        elif pool == "full":
            assert record.num_loaded_tokens == num_short * PAGE_SIZE
            assert found[Loss.NOT_READ] == 6 - num_short
        else:
            assert record.outcome == Outcome.COMMITTED and found == {Loss.NO_WINDOW: 0}
            assert record.num_committed_tokens == 6 * PAGE_SIZE and not record.num_attached_pages
    errors = [record.local_errors for record in records]
    assert [len(mine) for mine in errors] == [0] * (num_ranks - 1) + [how == "raises"]
    ranks.check_idle()
    ranks.close()


def test_a_model_without_windows_keeps_what_arrived_whatever_the_rule(
    num_ranks: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """STRICT is for windows; the pages of a prefix are each of use."""
    monkeypatch.delitem(ranks_module.NUM_LAYERS, "swa")
    rules = PrefetchRules(short_window=ShortWindow.STRICT)
    ranks = Ranks(num_ranks, window_tokens=None, prefetch=rules)
    tokens = make_tokens(6)
    ranks.each(lambda r: r.put("full", keys_of(tokens)))
    ranks[num_ranks - 1].store.faults.lost_on_read.add(("full", keys_of(tokens)[4]))
    for record in prefetch(ranks, tokens):
        assert record.outcome == Outcome.COMMITTED and lost(record) == {Loss.NOT_READ: 2}
    assert hit_pages(ranks, tokens) == 4
    ranks.close()


@pytest.mark.parametrize("fault", ["lost", "lost_on_read", Answer.NOTHING])
@pytest.mark.parametrize("followed", ["full", "swa"])
def test_a_page_without_its_sidecar_is_not_there(
    num_ranks: int, followed: str, fault: str | Answer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(ranks_module.NUM_LAYERS, "indexer", 1)
    ranks = Ranks(num_ranks, sidecars={"indexer": followed})
    tokens = make_tokens(6)
    keys = fill_stores(ranks, tokens)
    ranks.each(lambda r: r.put("indexer", keys))
    faults = ranks[num_ranks - 1].store.faults
    if isinstance(fault, Answer):
        faults.answers = {"indexer": fault}
    else:
        getattr(faults, fault).add(("indexer", keys[4]))
    for record in prefetch(ranks, tokens):
        if fault == "lost":
            assert record.num_agreed_tokens == 4 * PAGE_SIZE and record.num_attached_pages
        elif fault == Answer.NOTHING:
            assert record.outcome == Outcome.MISS
        elif followed == "full":
            assert record.num_committed_tokens == 4 * PAGE_SIZE and not record.num_attached_pages
        else:
            assert record.num_committed_tokens == 6 * PAGE_SIZE and not record.num_attached_pages
        lost(record)
    ranks.check_idle()
    ranks.close()


@pytest.mark.parametrize(("fault", "num_hit"), [("lost", 3), ("lost_on_read", 0)])
def test_a_state_that_lacks_at_the_end(
    num_ranks: int, fault: str, num_hit: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Endpoints are where every rank has a state: behind page 3 and behind page 6."""
    monkeypatch.setitem(ranks_module.NUM_LAYERS, "mamba", 1)
    ranks = Ranks(num_ranks, has_mamba=True)
    tokens = make_tokens(6)
    keys = fill_stores(ranks, tokens)
    ranks.each(lambda r: r.put("mamba", [keys[2], keys[5]]))
    getattr(ranks[num_ranks - 1].store.faults, fault).add(("mamba", keys[5]))
    for record in prefetch(ranks, tokens):
        num_attached_states = int(num_hit > 0)
        assert record.num_attached_pages.get("mamba", 0) == num_attached_states
        assert record.num_window_pages == {"swa": W, "mamba": 1}
        lost(record)
    assert hit_pages(ranks, tokens) == num_hit
    ranks.close()


def test_pages_that_are_there_by_then_are_no_loss(num_ranks: int) -> None:
    ranks = Ranks(num_ranks)
    tokens = make_tokens(6)
    fill_stores(ranks, tokens)
    ranks.each(lambda r: (r.cache.prefetch(tokens), r.cache.prefetch(tokens)))
    for _, second in ranks.drain():
        assert second.num_present_tokens == 6 * PAGE_SIZE and lost(second) == {}
    ranks.close()


@pytest.mark.parametrize("rule", ShortWindow)
@pytest.mark.parametrize("pool", ["full", "swa"])
def test_a_span_within_a_window_ends_where_the_leading_run_does(
    num_ranks: int, pool: str, rule: ShortWindow
) -> None:
    """Three pages, a window of three: what arrived of the window is whole for what lies in it."""
    ranks = Ranks(num_ranks, prefetch=PrefetchRules(short_window=rule))
    tokens = make_tokens(3)
    keys = fill_stores(ranks, tokens)
    ranks[num_ranks - 1].store.faults.lost_on_read.add((pool, keys[2]))
    for record in prefetch(ranks, tokens):
        found = lost(record)
        assert record.outcome == Outcome.COMMITTED and record.num_attached_pages == {"swa": 2}
        kept = 3 if (pool, rule) == ("swa", ShortWindow.KEEP_FULL) else 2
        assert record.num_committed_tokens == kept * PAGE_SIZE
        assert found.pop(Loss.NO_WINDOW) == 0
        why = Loss.NOT_READ if pool == "full" else Loss.STRICT
        assert found == ({why: 1} if kept == 2 else {})
    assert hit_pages(ranks, tokens) == 2
    ranks.each(lambda r: r.check_host(tokens[: 2 * PAGE_SIZE]))
    ranks.check_idle()
    ranks.close()


def test_a_span_within_a_window_whose_first_page_is_lost_has_no_endpoint(num_ranks: int) -> None:
    ranks = Ranks(num_ranks)
    tokens = make_tokens(3)
    keys = fill_stores(ranks, tokens)
    ranks[0].store.faults.lost_on_read.add(("swa", keys[0]))
    for record in prefetch(ranks, tokens):
        assert record.num_committed_tokens == 3 * PAGE_SIZE and not record.num_attached_pages
    assert hit_pages(ranks, tokens) == 0
    ranks.check_idle()
    ranks.close()
