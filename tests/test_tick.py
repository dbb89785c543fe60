"""The tick: what it applies and when; ranks that do not take part as agreed are told."""

from __future__ import annotations

import threading
from typing import Any

import pytest
from manual_io import ManualIo
from ranks import PAGE_SIZE, Rank, Ranks, publish
from spans import fill_stores, make_tokens, prefill

from hicache_ext.agreement.local import LocalGroup
from hicache_ext.errors import AgreementError, HiCacheError, LayoutError
from hicache_ext.flow.op import Phase
from hicache_ext.flow.prefetch import PrefetchOp
from hicache_ext.flow.record import Outcome
from hicache_ext.tier import Tier


def test_a_tick_applies_what_was_said_depth_ticks_ago() -> None:
    """A miss is known at once, and ends with the tick that carries it and no other."""
    ranks = Ranks(2)
    ranks.each(lambda r: r.cache.prefetch(make_tokens(4)))
    for tick in range(4):
        ranks.each(lambda r: r.cache.publish())
        records = ranks.each(lambda r: r.cache.apply())
        assert [len(mine) for mine in records] == [int(tick == ranks[0].depth)] * 2, tick
    ranks.close()


def test_a_rank_that_is_behind_applies_what_the_others_applied() -> None:
    """When rank 1 applies tick k - 1, tick k is complete as well; for rank 0 it was not."""
    ranks = Ranks(2, tick_depth=1)
    tokens = make_tokens(4)
    fill_stores(ranks, tokens)
    ranks.each(lambda r: r.cache.prefetch(tokens))
    ended = []
    for tick in range(8):
        records = ranks.each(lambda r: r.cache.tick())  # one rank after the other
        ranks.check()
        outcomes = [[record.outcome for record in mine] for mine in records]
        assert outcomes[0] == outcomes[1], tick
        ended += outcomes[0]
    assert ended == [Outcome.COMMITTED]
    ranks.close()


def test_a_slot_that_another_op_has_taken_does_not_get_the_result_of_the_last() -> None:
    """Both ask, and are in the same step: the miss of the first is not one of the second."""
    ranks = Ranks(2, num_slots=1)
    tokens = make_tokens(4)
    fill_stores(ranks, tokens)
    ranks.each(lambda r: r.cache.prefetch(make_tokens(4, start=500)))
    ranks.each(lambda r: r.cache.prefetch(tokens))
    outcomes = [[record.outcome for record in mine] for mine in ranks.drain()]
    assert outcomes == [[Outcome.MISS, Outcome.COMMITTED]] * 2
    ranks.close()


def test_an_op_that_waits_is_not_asked_again_until_its_read_ends(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What a tick costs is then that of the ops that move, and not of all that are in flight."""
    asked = []
    state = PrefetchOp.state
    monkeypatch.setattr(PrefetchOp, "state", lambda op: asked.append(op.phase) or state(op))
    ranks = Ranks(2, make_io=ManualIo)
    tokens = make_tokens(4)
    fill_stores(ranks, tokens)
    ranks.each(lambda r: r.cache.prefetch(tokens))
    for _ in range(3):
        ranks.tick()
    assert asked == [Phase.QUERY] * 2
    ranks[0].io.run()
    ranks.tick()
    assert asked == [Phase.QUERY] * 3  # of rank 0, whose query is back
    ranks[1].io.run()
    while Phase.READ not in asked:
        ranks.tick()
    num_asked = len(asked)
    for _ in range(3):
        ranks.tick()
    assert len(asked) == num_asked
    ranks.each(lambda r: r.io.run())
    outcomes = [[record.outcome for record in mine] for mine in ranks.drain()]
    assert outcomes == [[Outcome.COMMITTED]] * 2
    ranks.close()


def test_drain_leaves_no_tick_behind(tick_depth: int) -> None:
    """A cache that comes after in the same group begins where the first one ended."""
    group = LocalGroup()
    for _ in range(2):
        rank = Rank(0, group)
        rank.cache.prefetch(make_tokens(4))
        assert len(rank.cache.tick()) == 1 - tick_depth
        assert len(rank.cache.drain()) == tick_depth
        assert not group.ready()
        rank.close()


def test_a_tick_after_close() -> None:
    rank = Rank(0, LocalGroup())
    rank.cache.tick()
    rank.cache.close()
    for call in (rank.cache.tick, rank.cache.publish, rank.cache.apply, rank.cache.drain):
        with pytest.raises(HiCacheError, match="the cache is closed"):
            call()
    rank.close()


def test_a_tick_from_two_threads() -> None:
    """One waits for its peer inside the tick; the other is refused, and breaks nothing."""
    group, entered, go_on = LocalGroup(), threading.Event(), threading.Event()
    rank = Rank(0, group)
    inner = group.issue

    def slow(lanes: Any) -> None:
        entered.set()
        assert go_on.wait(20)
        inner(lanes)

    group.issue = slow  # type: ignore[method-assign]
    ticking = threading.Thread(target=rank.cache.tick)
    ticking.start()
    assert entered.wait(20)
    for call in (rank.cache.tick, rank.cache.apply, rank.cache.drain):
        with pytest.raises(HiCacheError, match="two threads"):
            call()
    go_on.set()
    ticking.join(20)
    rank.cache.tick()
    rank.close()


@pytest.mark.parametrize("num_ops", [0, 1, 7, 100])
def test_one_collective_in_each_tick(num_ops: int) -> None:
    """Of one length, for any number of ops, also when nothing is in flight."""
    group = LocalGroup()
    rank = Rank(0, group, num_slots=8)
    inner, sizes = group.issue, []
    group.issue = lambda lanes: (sizes.append(lanes.size), inner(lanes))[1]  # type: ignore[method-assign]
    for i in range(num_ops):
        rank.cache.prefetch(make_tokens(4, start=1000 * i))
    for num_ticks in range(1, 6):
        rank.cache.tick()
        assert len(sizes) == num_ticks and len(set(sizes)) == 1
    rank.close()


@pytest.mark.parametrize("depth", [-1, 2])
def test_a_depth_that_groups_do_not_have(depth: int) -> None:
    with pytest.raises(LayoutError, match=f"tick_depth={depth}"):
        Rank(0, LocalGroup(), tick_depth=depth)


@pytest.mark.parametrize("deadline_s", [0, -1, float("inf"), float("nan")])
def test_a_deadline_that_nobody_can_keep(deadline_s: float) -> None:
    with pytest.raises(LayoutError, match="tick_deadline_s="):
        Rank(0, LocalGroup(), tick_deadline_s=deadline_s)


def test_ranks_of_another_depth_are_told() -> None:
    groups = LocalGroup.simulated(2)
    ranks = [Rank(i, group, tick_depth=i) for i, group in enumerate(groups)]
    publish(ranks[1:])
    ranks[0].cache.publish()
    for rank in ranks:
        with pytest.raises(AgreementError, match="schema"):
            rank.cache.apply()
        rank.close()


def test_a_vote_before_an_eviction_does_not_count_after_it() -> None:
    """Said twice at depth 1, before the ranks evict for it: the second attempt has room."""
    ranks = Ranks(2, num_host=[8, 5])
    for rank in ranks:
        rank.cache.release(prefill(rank, 4))
    ranks.drain()
    ranks.each(lambda r: r.cache.flush(Tier.DEVICE))
    tokens = make_tokens(5, start=500)
    fill_stores(ranks, tokens)
    ranks.each(lambda r: r.cache.prefetch(tokens))
    assert [mine[0].outcome for mine in ranks.drain()] == [Outcome.COMMITTED] * 2
    ranks.close()


def test_a_load_back_votes_again_after_an_eviction() -> None:
    ranks = Ranks(2, num_device=6)
    for start in (0, 1000):
        for rank in ranks:
            rank.cache.release(prefill(rank, 4, start))
        ranks.drain()
    matches = ranks.each(lambda r: r.cache.match(list(range(4 * PAGE_SIZE))))
    for rank, match in zip(ranks, matches, strict=True):
        assert rank.cache.load_back(match) is not None
    assert [mine[0].outcome for mine in ranks.drain()] == [Outcome.COMMITTED] * 2
    ranks.close()


def test_ops_beyond_the_slots_wait_in_order_and_show_in_the_stats() -> None:
    ranks = Ranks(2, num_slots=2, num_host=64)
    for i in range(6):
        ranks.each(lambda r, i=i: r.cache.prefetch(make_tokens(2, start=1000 * i)))
    assert ranks[0].cache.stats.num_waiting_ops == 0  # as of the last tick
    ended = ranks.tick()
    assert {r.cache.stats.max_waiting_ops for r in ranks} == {4}
    ended = [mine + new for mine, new in zip(ended, ranks.drain(), strict=True)]
    for records in ended:
        assert [record.op_id for record in records] == [1, 2, 3, 4, 5, 6]
    assert {r.cache.stats.num_waiting_ops for r in ranks} == {0}
    ranks.close()


def test_free_pages_are_the_fewest_of_any_rank() -> None:
    """Each has another number free; what they are told to admit by is the same."""
    ranks = Ranks(2, num_host=[8, 12])
    assert ranks[0].cache.num_free_pages(Tier.HOST) == {"full": 0, "swa": 0}
    held = ranks[1].host["swa"].alloc(7)
    ranks.tick()
    for rank in ranks:
        assert rank.cache.num_free_pages(Tier.HOST) == {"full": 8, "swa": 5}
        assert rank.cache.num_free_pages(Tier.DEVICE) == {"full": 32, "swa": 32}
    ranks[1].host["swa"].free(held)
    ranks.close()


def test_a_second_op_under_one_id_is_told() -> None:
    """Rank 1 counts its ops wrong: another op has the id already."""
    ranks = Ranks(2)
    for i in range(2):
        ranks.each(lambda r, i=i: r.cache.prefetch(make_tokens(2, start=1000 * i)))
        ranks[1].cache._engine._num_ops = 0
    assert ranks[1].cache.num_in_flight == 2
    publish(ranks)
    for rank, mine in zip(ranks, (2, 0), strict=True):
        with pytest.raises(AgreementError, match=rf"\(ops\): this rank has {mine}, .* 0, .* 2"):
            rank.cache.apply()
    ranks.close()


def test_an_op_that_one_rank_does_not_know_is_told() -> None:
    ranks = Ranks(2)
    ranks.each(lambda r: r.cache.prefetch(make_tokens(2)))
    ranks[1].cache._engine._ops._pending.clear()
    publish(ranks)
    for rank, mine in zip(ranks, ("1", r"-1 \(slot unused\)"), strict=True):
        with pytest.raises(AgreementError, match=rf"\(slot\[0\]\.op\): this rank has {mine}"):
            rank.cache.apply()
    ranks.close()
