"""How long a request waits for its prefetch: each policy, with deadlines that ranks agree on."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import ranks as ranks_module
from manual_io import ManualIo
from ranks import PAGE_SIZE, Rank, Ranks, publish
from spans import fill_stores, hit_pages, make_tokens, num_attached

from hicache_ext.errors import AgreementError
from hicache_ext.flow import read
from hicache_ext.flow.op import Phase
from hicache_ext.flow.prefetch_rules import PrefetchPolicy, PrefetchRules
from hicache_ext.flow.record import Loss, Outcome

BEST_EFFORT = PrefetchRules(policy=PrefetchPolicy.BEST_EFFORT)
WAIT_COMPLETE = PrefetchRules(policy=PrefetchPolicy.WAIT_COMPLETE)
TIMEOUT = PrefetchRules(policy=PrefetchPolicy.TIMEOUT, timeout_s=2, timeout_s_per_1k_tokens=0)


@pytest.fixture
def full_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(ranks_module.NUM_LAYERS, "swa")


@pytest.fixture
def batches_of_a_page(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(read, "READ_BATCH_BYTES", 1)


class Clocks:
    """The clock of each rank."""

    def __init__(self, ranks: Ranks) -> None:
        self.now_s = [100.0 * rank.rank for rank in ranks]
        for rank in ranks:
            rank.cache._ctx.alarm.clock = lambda i=rank.rank: self.now_s[i]


def begin(ranks: Ranks, tokens: list[int]) -> int:
    op_ids = ranks.each(lambda r: r.cache.prefetch(tokens))
    assert op_ids[0] is not None and len(set(op_ids)) == 1
    return op_ids[0]


def begun(num_ranks: int, rules: PrefetchRules) -> tuple[Ranks, Clocks, int]:
    """Ranks whose stores have the six pages that they begin to prefetch."""
    ranks = Ranks(num_ranks, make_io=ManualIo, prefetch=rules)
    clocks = Clocks(ranks)
    tokens = make_tokens(6)
    fill_stores(ranks, tokens)
    return ranks, clocks, begin(ranks, tokens)


def poll(ranks: Ranks, op_id: int) -> bool:
    answers = ranks.each(lambda r: r.cache.poll(op_id))
    assert len(set(answers)) == 1
    return answers[0]


def phases(ranks: Ranks, op_id: int) -> set[Phase]:
    return {r.cache._prefetches[op_id].phase for r in ranks}


def run_io(ranks: Ranks) -> None:
    ranks.each(lambda r: r.io.run())


def tick_to(ranks: Ranks, op_id: int, phase: Phase) -> None:
    """I/O runs up to it, and waits then."""
    for _ in range(6):
        if phases(ranks, op_id) == {phase}:
            return
        run_io(ranks)
        ranks.tick()
    raise AssertionError(phases(ranks, op_id))


@pytest.fixture(params=[1, 2])
def num_ranks(request: pytest.FixtureRequest) -> int:
    return request.param


def test_best_effort_goes_on_at_once_when_nothing_is_there(num_ranks: int) -> None:
    ranks = Ranks(num_ranks, make_io=ManualIo, prefetch=BEST_EFFORT)
    tokens = make_tokens(6)
    fill_stores(ranks, tokens)
    op_id = begin(ranks, tokens)
    assert poll(ranks, op_id)
    assert [ranks.tick()[0] for _ in range(3)] == [[], [], []]  # the query is still under way
    assert phases(ranks, op_id) == {Phase.DRAIN} and poll(ranks, op_id)
    assert ranks[0].host["full"].num_free == ranks[0].host["full"].capacity
    run_io(ranks)
    for (record,) in ranks.drain():
        assert record.outcome == Outcome.EXPIRED
        assert record.losses == [(Loss.DEADLINE, 6 * PAGE_SIZE, "")]
    assert poll(ranks, op_id)
    ranks.check_idle()
    ranks.close()


def test_best_effort_takes_what_has_been_read(
    num_ranks: int, full_only: None, batches_of_a_page: None
) -> None:
    """Polled while the last rank has read its third page: the others may have read all."""
    ranks = Ranks(num_ranks, make_io=ManualIo, prefetch=BEST_EFFORT, window_tokens=None)
    tokens = make_tokens(6)
    for rank in ranks:
        rank.put("full", ranks_module.keys_of_pages(tokens))
    op_id = begin(ranks, tokens)
    tick_to(ranks, op_id, Phase.READ)
    last = ranks[num_ranks - 1]
    honest, num_calls = last.store.read_into, 0

    def read_into(*args: Any) -> list[bool]:
        nonlocal num_calls
        num_calls += 1
        if num_calls == 3:
            arrived = honest(*args)  # the call is under way, and its store sees no limit
            assert not poll(ranks, op_id)
            ranks.tick()
            assert phases(ranks, op_id) == {Phase.STOP} and not poll(ranks, op_id)
            assert args[-1].is_over  # which a store that looks at its limit obeys
            return arrived
        return honest(*args)

    last.store.read_into = read_into
    run_io(ranks)
    for (record,) in ranks.drain():
        assert record.outcome == Outcome.COMMITTED
        assert record.num_loaded_tokens == record.num_committed_tokens == 3 * PAGE_SIZE
        assert record.losses == [(Loss.DEADLINE, 3 * PAGE_SIZE, "")]
    assert num_calls == 3 and num_attached(ranks, "full") == {3}
    assert hit_pages(ranks, tokens) == 3
    ranks.close()


def test_wait_complete_waits_for_all_of_it(num_ranks: int) -> None:
    ranks, clocks, op_id = begun(num_ranks, WAIT_COMPLETE)
    assert not poll(ranks, op_id)
    clocks.now_s = [1e9] * num_ranks
    for phase in (Phase.QUERY, Phase.RESERVE, Phase.READ):
        tick_to(ranks, op_id, phase)
        assert not poll(ranks, op_id)
        if phase != Phase.RESERVE:
            ranks.tick(), ranks.tick()
            assert phases(ranks, op_id) == {phase}
    run_io(ranks)
    assert [record.outcome for (record,) in ranks.drain()] == [Outcome.COMMITTED] * num_ranks
    assert poll(ranks, op_id) and hit_pages(ranks, make_tokens(6)) == 6
    ranks.close()


@pytest.mark.parametrize("late", [0, 1])
@pytest.mark.parametrize("phase", [Phase.QUERY, Phase.READ])
def test_a_clock_that_runs_fast_decides_nothing_alone(late: int, phase: Phase) -> None:
    ranks, clocks, op_id = begun(2, TIMEOUT)
    tick_to(ranks, op_id, phase)
    assert not poll(ranks, op_id)
    clocks.now_s[late] += 2
    for _ in range(3):
        ranks.tick()
    assert phases(ranks, op_id) == {phase} and not poll(ranks, op_id)
    clocks.now_s[1 - late] += 2
    ranks.tick()
    ended = Phase.DRAIN if phase == Phase.QUERY else Phase.STOP
    assert phases(ranks, op_id) == {ended} and poll(ranks, op_id) == (ended == Phase.DRAIN)
    run_io(ranks)
    outcome = Outcome.EXPIRED if phase == Phase.QUERY else Outcome.DROPPED
    assert [record.outcome for (record,) in ranks.drain()] == [outcome] * 2
    assert all(rank.store.stats()["num_read_pages"] == 0 for rank in ranks)
    ranks.check_idle()
    ranks.close()


def test_the_ranks_that_are_through_do_not_have_to_be_late() -> None:
    """One rank has read everything, the other is past its deadline: the read stops on both."""
    ranks, clocks, op_id = begun(2, TIMEOUT)
    tick_to(ranks, op_id, Phase.READ)
    poll(ranks, op_id)
    ranks[0].io.run()
    ranks.tick()
    assert phases(ranks, op_id) == {Phase.READ}
    clocks.now_s[1] += 2
    ranks.tick()
    assert phases(ranks, op_id) == {Phase.STOP}
    ranks[1].io.run()
    for (record,) in ranks.drain():
        assert record.num_loaded_tokens == 0 and record.outcome == Outcome.DROPPED
    ranks.check_idle()
    ranks.close()


def test_the_time_begins_with_the_first_poll_and_not_with_a_later_one(num_ranks: int) -> None:
    ranks, clocks, op_id = begun(num_ranks, TIMEOUT)
    for step_s, phase in ((1000, Phase.QUERY), (1, Phase.QUERY), (1, Phase.DRAIN)):
        clocks.now_s = [now_s + step_s for now_s in clocks.now_s]
        ranks.tick()
        assert phases(ranks, op_id) == {phase}
        poll(ranks, op_id)
    run_io(ranks)
    ranks.drain()
    ranks.close()


def test_a_longer_span_has_more_time() -> None:
    rules = PrefetchRules(timeout_s=1, timeout_s_per_1k_tokens=0.5)
    assert [rules.patience_s(n) for n in (0, 1024, 4096)] == [1, 1.5, 3]
    assert BEST_EFFORT.patience_s(4096) == 0 and WAIT_COMPLETE.patience_s(1) == float("inf")


@pytest.mark.parametrize("rules", [BEST_EFFORT, WAIT_COMPLETE, TIMEOUT])
def test_a_miss_blocks_nobody(num_ranks: int, rules: PrefetchRules) -> None:
    ranks = Ranks(num_ranks, prefetch=rules)
    op_id = begin(ranks, make_tokens(6))
    poll(ranks, op_id)
    assert [mine[0].outcome for mine in ranks.tick()] == [Outcome.MISS] * num_ranks
    assert poll(ranks, op_id) and ranks[0].cache.num_in_flight == 0
    ranks.close()


def test_a_finished_prefetch_is_taken_before_an_older_one(num_ranks: int) -> None:
    """At the next tick, and not when its request's turn in a queue has come."""
    ranks = Ranks(num_ranks, make_io=ManualIo)
    first, second = make_tokens(6), make_tokens(6, start=500)
    fill_stores(ranks, first), fill_stores(ranks, second)
    op_ids = [begin(ranks, tokens) for tokens in (first, second)]
    ranks.tick()
    run_io(ranks)
    ranks.tick(), ranks.tick()
    assert [phases(ranks, op_id) for op_id in op_ids] == [{Phase.READ}] * 2
    for rank in ranks:
        rank.io._waiting[1].run()
    assert [mine[0].op_id for mine in ranks.tick()] == [op_ids[1]] * num_ranks
    assert poll(ranks, op_ids[1]) and not poll(ranks, op_ids[0])
    run_io(ranks)
    ranks.drain()
    ranks.close()


def ends(rank: Rank) -> Iterator[str]:
    try:
        rank.cache.apply()
    except AgreementError as error:
        yield str(error)


def test_a_poll_that_one_rank_does_not_make_is_told() -> None:
    ranks = Ranks(2, make_io=ManualIo)
    op_id = begin(ranks, make_tokens(6))
    ranks[1].cache.poll(op_id)
    publish(ranks)
    said = [text for rank in ranks for text in ends(rank)]
    assert len(said) == 2 and all("(calls)" in text for text in said)
    run_io(ranks)
    ranks.close()
