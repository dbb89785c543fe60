"""Store calls that hang: the op is given up, its pages come back when the call does."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from manual_io import ManualIo
from ranks import Ranks
from spans import fill_stores, hit_pages, make_tokens

from hicache_ext.errors import LayoutError
from hicache_ext.flow import read
from hicache_ext.flow.op import Phase
from hicache_ext.flow.prefetch_rules import PrefetchPolicy, PrefetchRules
from hicache_ext.flow.record import Loss, Outcome, PrefetchRecord
from hicache_ext.pool import PageState
from hicache_ext.tier import Tier

HANG_S = 4.0


class Scene:
    """Two ranks with one slot and a prefetch of six pages; the clock is the test's."""

    def __init__(self, policy: PrefetchPolicy = PrefetchPolicy.WAIT_COMPLETE) -> None:
        rules = PrefetchRules(policy, timeout_s=1, timeout_s_per_1k_tokens=0, hang_s=HANG_S)
        self.ranks = Ranks(2, make_io=ManualIo, prefetch=rules, num_slots=1)
        self.now_s = 0.0
        for rank in self.ranks:
            rank.cache._ctx.alarm.clock = lambda: self.now_s
        fill_stores(self.ranks, make_tokens(6))
        self.op_id = self.ask(make_tokens(6))

    def ask(self, tokens: list[int]) -> int:
        op_ids = self.ranks.each(lambda r: r.cache.prefetch(tokens))
        assert op_ids[0] is not None and len(set(op_ids)) == 1
        return op_ids[0]

    def tick_to(self, phase: Phase) -> None:
        for _ in range(20):
            if self.phases() == {phase}:
                return
            if phase != Phase.QUERY and self.phases() == {Phase.QUERY}:
                self.ranks.each(lambda r: r.io.run())
            self.ranks.tick()
        raise AssertionError(f"{self.phases()}, not {phase}")

    def phases(self) -> set[Phase]:
        return set(self.ranks.each(lambda r: r.cache._prefetches[self.op_id].phase))

    def pass_time(self, seconds: float) -> list[PrefetchRecord]:
        """The records of rank 0 that end in the ticks after it."""
        self.now_s += seconds
        return [record for _ in range(3) for record in self.ranks.tick()[0]]

    def poll(self) -> bool:
        answers = self.ranks.each(lambda r: r.cache.poll(self.op_id))
        assert len(set(answers)) == 1
        return answers[0]

    def lent(self) -> list[int]:
        return self.ranks.each(lambda r: r.cache.num_lent_pages)


@pytest.fixture
def scene() -> Iterator[Scene]:
    made = Scene()
    yield made
    made.ranks.close()


def test_a_read_that_hangs_on_one_rank_ends_the_op_and_keeps_its_pages(scene: Scene) -> None:
    ranks = scene.ranks
    scene.tick_to(Phase.READ)
    ranks[0].io.run()
    assert not scene.poll() and scene.pass_time(HANG_S - 1) == []
    assert scene.phases() == {Phase.READ} and not scene.poll()
    (record,) = scene.pass_time(1)
    assert record.outcome == Outcome.EXPIRED and record.losses[0].why == Loss.DEADLINE
    assert scene.poll() and scene.lent() == [0, 9]  # six FULL pages and a window of three
    assert [r.host["full"].allocator.counts()[PageState.IO] for r in ranks] == [0, 6]
    assert [r.host["full"].num_free for r in ranks] == [32, 26]
    assert not ranks[0].cache.num_in_flight and not ranks[0].cache.tree._state.receipts

    op_id = scene.ask(make_tokens(6))  # the slot is free, and what is left of the host as well
    while ranks[0].cache.num_in_flight:
        for rank in ranks:
            rank.io._waiting[-1:] and rank.io._waiting[-1].run()  # the old read hangs on
        records = ranks.tick()
    assert (records[1][0].op_id, records[1][0].outcome) == (op_id, Outcome.COMMITTED)
    ranks[1].io.run()  # it comes back at last, and writes into pages that are nobody else's
    ranks.tick()
    assert scene.lent() == [0, 0] and hit_pages(ranks, make_tokens(6)) == 6
    assert [r.host["full"].num_free for r in ranks] == [26, 26]
    ranks.each(lambda r: r.check_host(make_tokens(6)[:-1]))
    ranks.check_idle()


def test_a_query_that_hangs_keeps_no_slot(scene: Scene) -> None:
    scene.tick_to(Phase.QUERY)
    scene.ranks.tick()
    scene.ranks[1].io.run()
    assert scene.pass_time(HANG_S - 1) == []
    assert [record.outcome for record in scene.pass_time(1)] == [Outcome.EXPIRED]
    assert scene.poll() and not scene.ranks[0].cache.num_in_flight
    assert [len(r.cache._ctx.lent) for r in scene.ranks] == [1, 0] and scene.lent() == [0, 0]


def test_a_read_that_gets_on_does_not_hang(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(read, "READ_BATCH_BYTES", 1)  # a page
    scene.tick_to(Phase.READ)
    inner = scene.ranks[1].store.read_into

    def slow(*args: object) -> list[bool]:
        scene.now_s += HANG_S - 1
        return inner(*args)

    monkeypatch.setattr(scene.ranks[1].store, "read_into", slow)
    op = scene.ranks[1].cache._prefetches[scene.op_id]
    scene.ranks[1].io.run()
    assert scene.now_s > 9 * (HANG_S - 1) - 1 and op._io._watch._moved_s == scene.now_s
    scene.ranks[0].io.run()
    assert [record.outcome for record in scene.pass_time(0)] == [Outcome.COMMITTED]


@pytest.mark.parametrize("policy", [PrefetchPolicy.TIMEOUT, PrefetchPolicy.BEST_EFFORT])
def test_the_request_goes_on_when_a_read_does_not_stop(policy: PrefetchPolicy) -> None:
    scene = Scene(policy)
    scene.tick_to(Phase.READ)
    assert not scene.poll()
    assert scene.pass_time(1) == [] and scene.phases() == {Phase.STOP} and not scene.poll()
    assert [record.outcome for record in scene.pass_time(HANG_S)] == [Outcome.EXPIRED]
    assert scene.poll() and scene.lent() == [9, 9]
    scene.ranks.close()


def test_an_abort_does_not_wait_for_it_and_close_does(scene: Scene) -> None:
    scene.tick_to(Phase.READ)
    scene.ranks[0].cache.abort(scene.op_id)
    assert scene.pass_time(HANG_S - 1) == [] and scene.phases() == {Phase.DRAIN}
    assert [record.outcome for record in scene.pass_time(1)] == [Outcome.ABORTED]
    assert scene.lent() == [9, 9]
    scene.ranks.each(lambda r: r.cache.close())
    assert scene.lent() == [0, 0]
    for rank in scene.ranks:
        counts = rank.host["full"].allocator.counts()
        assert counts[PageState.FREE] == rank.cache.pools.get(Tier.HOST, "full").capacity


def test_the_rule_is_checked() -> None:
    with pytest.raises(
        LayoutError, match=r"prefetch hang_s=0: it must be finite and at least 0.01"
    ):
        PrefetchRules(hang_s=0)
