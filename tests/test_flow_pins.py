"""What a flow holds must stay where it is until the flow is done with it, on every rank."""

from __future__ import annotations

import threading
from typing import Any

import pytest
from manual_io import ManualIo
from ranks import PAGE_SIZE, Rank, Ranks, publish
from spans import W, fill_stores, make_tokens, num_attached, prefetch, prefill

from hicache_ext.agreement.local import LocalGroup
from hicache_ext.errors import AgreementError, TreeError
from hicache_ext.flow.io import ThreadIo
from hicache_ext.flow.prefetch_rules import PrefetchRules
from hicache_ext.flow.record import Outcome, PrefetchRecord
from hicache_ext.match import Match
from hicache_ext.pool import PageState
from hicache_ext.tier import Tier


def evict_all(ranks: Any, *tiers: Tier) -> None:
    for rank in ranks:
        for tier in tiers:
            rank.cache.evict(tier, {"full": 99, "swa": 99})


def release(ranks: Any, matches: list[Match]) -> None:
    for rank, match in zip(ranks, matches, strict=True):
        rank.cache.release(match)


def test_host_pages_stay_while_they_are_written_to_the_store() -> None:
    """The device copy goes, the host copy is the oldest: it may not be given to another page."""
    ranks = Ranks(2, make_io=ManualIo)
    release(ranks, ranks.each(lambda r: prefill(r, 5)))
    for _ in range(4):
        ranks.tick()
    ranks[0].io.run()  # rank 1 has not written yet
    evict_all(ranks, Tier.DEVICE, Tier.HOST)
    assert num_attached(ranks, "full") == num_attached(ranks, "swa") == {5}
    ranks[1].io.run()
    ranks.drain()
    evict_all(ranks, Tier.HOST)
    assert num_attached(ranks, "full") == num_attached(ranks, "swa") == {0}
    ranks.check_idle()
    ranks.close()


def test_new_pages_stay_until_their_backup_begins() -> None:
    """Evicted between the insert and the next tick: both pools' pages must still be there."""
    ranks = Ranks(1)
    release(ranks, ranks.each(lambda r: prefill(r, 5)))
    evict_all(ranks, Tier.DEVICE)
    ranks.drain()
    assert num_attached(ranks, "full") == num_attached(ranks, "swa") == {5}
    evict_all(ranks, Tier.DEVICE)
    assert ranks[0].device["full"].num_free == ranks[0].device["full"].capacity
    ranks.close()


def test_a_slow_store_does_not_hold_up_the_next_backup() -> None:
    ranks = Ranks(1, make_io=ManualIo)
    matches = [prefill(ranks[0], 2), prefill(ranks[0], 4)]
    for _ in range(6):
        ranks.tick()
    assert num_attached(ranks, "full") == {4} and ranks[0].cache.num_in_flight == 2
    ranks[0].io.run()
    ranks.drain()
    for match in matches:
        ranks[0].cache.release(match)
    ranks.close()


def test_the_store_has_the_window_before_it_shows_the_full_pages() -> None:
    """Another process that asks meanwhile must not find an endpoint without its window."""
    rank = Rank(0, LocalGroup())
    write, order = rank.store.write_from, []
    rank.store.write_from = lambda pool, *args: (order.append(pool), write(pool, *args))[1]
    rank.cache.release(prefill(rank, 2))
    rank.cache.drain()
    assert order == ["swa", "full"]
    rank.close()


def test_a_match_keeps_the_window_of_its_device_prefix() -> None:
    """The matched rest on the host has a window of its own, far from the device prefix."""
    ranks = Ranks(1)
    rank = ranks[0]
    release(ranks, [prefill(rank, 5)])
    release(ranks, [prefill(rank, 10)])
    ranks.drain()
    rank.cache.evict(Tier.DEVICE, {"full": 5})
    match = rank.cache.match(list(range(10 * PAGE_SIZE)))
    assert (match.num_device_tokens, match.num_tokens) == (5 * PAGE_SIZE, 10 * PAGE_SIZE)
    evict_all(ranks, Tier.DEVICE)
    for name, pool in rank.device.items():
        states = {pool.allocator.state(i) for i in match.pages[name] if i >= 0}
        assert states == {PageState.ATTACHED}, name
    rank.cache.release(match)
    ranks.close()


def test_the_anchor_of_a_prefetch_stays_with_its_window() -> None:
    ranks = Ranks(2, make_io=ManualIo)
    tokens = make_tokens(4 + W)
    fill_stores(ranks, tokens)
    ranks.each(lambda r: r.cache.prefetch(tokens[: 4 * PAGE_SIZE + 1]))
    for _ in range(5):
        ranks.each(lambda r: r.io.run())
        ranks.tick()
    ranks.each(lambda r: r.cache.prefetch(tokens))
    ranks.tick()
    evict_all(ranks, Tier.HOST)
    assert num_attached(ranks, "full") == {4} and num_attached(ranks, "swa") == {W}
    for _ in range(5):
        ranks.each(lambda r: r.io.run())
        ranks.tick()
    assert num_attached(ranks, "full") == {4 + W}
    ranks.check_idle()
    ranks.close()


def test_a_prefetch_whose_anchor_is_split_joins_behind_it() -> None:
    """The id stays with the part that the span follows."""
    ranks = Ranks(2, make_io=ManualIo)
    tokens = make_tokens(4 + W)
    fill_stores(ranks, tokens)
    ranks.each(lambda r: r.cache.prefetch(tokens[: 4 * PAGE_SIZE + 1]))
    for _ in range(5):
        ranks.each(lambda r: r.io.run())
        ranks.tick()
    ranks.each(lambda r: r.cache.prefetch(tokens))
    fork = [*tokens[: 3 * PAGE_SIZE], *range(900, 904)]
    release(ranks, ranks.each(lambda r: r.cache.match(fork)))
    for _ in range(5):
        ranks.each(lambda r: r.io.run())
        ranks.tick()
    ranks.each(lambda r: r.check_host(tokens))
    matches = ranks.each(lambda r: r.cache.match(tokens[:-1]))
    assert {match.num_tokens for match in matches} == {(4 + W) * PAGE_SIZE}
    release(ranks, matches)
    ranks.check_idle()
    ranks.close()


@pytest.mark.parametrize("call", ["read_into", "write_from"])
def test_close_waits_for_a_store_call_under_way(call: str) -> None:
    """Until the thread has let go of the pages they are the op's."""
    rank = Rank(0, LocalGroup(), io=ThreadIo())
    tokens = make_tokens(6)
    fill_stores([rank], tokens)  # type: ignore[arg-type]
    started, go_on = threading.Event(), threading.Event()
    inner = getattr(rank.store, call)

    def slow(*args: Any) -> Any:
        started.set()
        assert go_on.wait(20)
        return inner(*args)

    setattr(rank.store, call, slow)
    if call == "read_into":
        rank.cache.prefetch(tokens)
    else:
        rank.cache.release(prefill(rank, 6))
    while not started.is_set():
        rank.cache.tick()
    closing = threading.Thread(target=rank.cache.close)
    closing.start()
    closing.join(0.05)
    assert closing.is_alive()
    held = PageState.IO if call == "read_into" else PageState.ATTACHED
    assert rank.host["full"].allocator.counts()[held] == 6
    assert rank.cache.tree._state.receipts  # pinned
    go_on.set()
    closing.join(20)
    assert not rank.cache.tree._state.receipts
    rank.check_ledger()
    assert rank.host["full"].allocator.counts()[PageState.IO] == 0
    rank.close()


def test_close_does_not_begin_a_write_that_waits_in_line() -> None:
    rank = Rank(0, LocalGroup(), io=ManualIo())
    rank.cache.release(prefill(rank, 2))
    for _ in range(4):
        rank.cache.tick()
    rank.cache.close()
    assert rank.store.stats()["num_written_pages"] == 0
    rank.close()


def test_ops_that_wait_for_a_slot_can_be_aborted_and_closed() -> None:
    """One slot, a prefetch in it, two in line, a load-back and a backup behind them."""
    ranks = Ranks(2, make_io=ManualIo, num_slots=1)
    tokens = make_tokens(6)
    fill_stores(ranks, tokens)
    op_ids = [ranks.each(lambda r: r.cache.prefetch(tokens))[0] for _ in range(3)]
    matches = ranks.each(lambda r: prefill(r, 2))
    ranks.tick()
    ranks[1].cache.abort(op_ids[1])
    ended: list[PrefetchRecord] = []
    while len(ended) < 2:
        ranks.each(lambda r: r.io.run())
        ended += ranks.tick()[0]
    assert [record.outcome for record in ended] == [Outcome.COMMITTED, Outcome.ABORTED]
    assert ranks[0].cache.num_in_flight == 2
    ranks.each(lambda r: r.cache.close())
    release(ranks, matches)
    ranks.check_idle()
    assert not any(r.cache.tree._state.receipts for r in ranks)
    ranks.close()


def test_trees_that_have_parted_are_told_at_the_next_tick() -> None:
    """The digest rides along: no op is in flight, and nothing else would show it."""
    ranks = Ranks(2)
    ranks[0].cache.tree.match_prefix(list(range(8)), b"nobody else")
    publish(ranks)
    for rank in ranks:
        with pytest.raises(AgreementError, match="digest"):
            rank.cache.apply()
    ranks.close()


def test_a_page_that_the_tree_does_not_have_is_reported() -> None:
    rank = Rank(0, LocalGroup())
    rank.host["swa"].alloc(1, PageState.ATTACHED)
    with pytest.raises(TreeError, match="pool swa on HOST: 1 pages attached, the tree owns 0"):
        rank.cache.check_integrity()
    rank.close()


def test_a_prefetch_of_pages_that_the_device_has_asks_nothing() -> None:
    """The host has none of them: no room for their backup."""
    rank = Rank(0, LocalGroup(), num_host=1)
    match = prefill(rank, 4)
    rank.cache.drain()
    assert rank.cache.prefetch(list(range(4 * PAGE_SIZE + 1))) is None
    rank.cache.release(match)
    rank.close()


def test_one_load_back_for_a_match_at_a_time() -> None:
    ranks = Ranks(1)
    release(ranks, [prefill(ranks[0], 4)])
    ranks.drain()
    evict_all(ranks, Tier.DEVICE)
    match = ranks[0].cache.match(list(range(4 * PAGE_SIZE)))
    ranks[0].cache.load_back(match)
    with pytest.raises(TreeError, match="in flight for this match"):
        ranks[0].cache.load_back(match)
    ranks.drain()
    assert ranks[0].cache.load_back(match) is None
    ranks[0].cache.release(match)
    ranks.close()


@pytest.mark.parametrize(("num_hit", "outcome"), [(1, "below_threshold"), (2, "committed")])
def test_a_hit_below_the_threshold_is_not_read(num_hit: int, outcome: str) -> None:
    ranks = Ranks(2, prefetch=PrefetchRules(threshold_tokens=2 * PAGE_SIZE))
    tokens = make_tokens(5)
    keys = fill_stores(ranks, tokens)
    ranks[1].store.remove("full", keys[num_hit:])
    assert [record.outcome.value for record in prefetch(ranks, tokens)] == [outcome] * 2
    assert num_attached(ranks, "full") == {num_hit if outcome == "committed" else 0}
    assert ranks.each(lambda r: r.cache.prefetch(make_tokens(1, start=900))) == [None, None]
    ranks.close()
