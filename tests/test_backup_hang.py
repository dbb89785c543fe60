"""Writes to the store that hang: the backup is given up by all ranks, its pages are kept by one."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from manual_io import ManualIo
from ranks import Ranks
from spans import prefill

from hicache_ext.flow.prefetch_rules import PrefetchRules
from hicache_ext.flow.record import BackupRecord, Drop, Outcome
from hicache_ext.pool import PageState
from hicache_ext.tier import Tier

HANG_S = 4.0
NUM_PAGES = 6


class Scene:
    """Two ranks that write a backup of six pages; the clock is the test's."""

    def __init__(self) -> None:
        self.ranks = Ranks(2, make_io=ManualIo, prefetch=PrefetchRules(hang_s=HANG_S), num_slots=1)
        self.now_s = 0.0
        for rank in self.ranks:
            rank.cache._ctx.alarm.clock = lambda: self.now_s
        self.ranks.each(lambda r: r.cache.release(prefill(r, NUM_PAGES)))
        while not all(rank.io._waiting for rank in self.ranks):
            assert not self.ranks.tick()[0]

    def pass_time(self, seconds: float) -> list[list[BackupRecord]]:
        """The records of each rank that end in the ticks after it."""
        self.now_s += seconds
        ticks = [self.ranks.tick() for _ in range(3)]
        return [[record for tick in ticks for record in tick[i]] for i in range(2)]

    def evict_host(self) -> None:
        self.ranks.each(lambda r: r.cache.evict(Tier.DEVICE, {"full": NUM_PAGES}))
        self.ranks.each(lambda r: r.cache.evict(Tier.HOST, {"full": NUM_PAGES}))

    def num_free(self) -> list[int]:
        return [rank.host["full"].num_free for rank in self.ranks]


@pytest.fixture
def scene() -> Iterator[Scene]:
    made = Scene()
    yield made
    made.ranks.close()


def test_a_write_that_hangs_on_one_rank_ends_the_backup_of_all(scene: Scene) -> None:
    ranks = scene.ranks
    ranks[0].io.run()
    assert scene.pass_time(HANG_S - 1) == [[], []] and ranks[0].cache._ctx.num_storing == 1
    (good,), (hung,) = scene.pass_time(1)
    assert (good.outcome, hung.outcome) == (Outcome.COMMITTED, Outcome.COMMITTED)
    assert good.num_stored_pages["full"] == NUM_PAGES and not good.num_dropped_pages
    assert hung.num_dropped_pages == {Drop.NOT_WRITTEN: 2 * NUM_PAGES}
    assert "a store call hangs and was given up" in str(hung.local_errors)
    assert [r.cache._ctx.num_storing for r in ranks] == [0, 0]
    assert [r.io.num_given_up for r in ranks] == [0, 1]
    assert [r.cache.stats.num_hung_ops for r in ranks] == [0, 1]
    assert not ranks[0].cache.num_in_flight and not ranks[0].cache.tree._state.receipts


def test_its_pages_stay_out_of_use_until_it_returns(scene: Scene) -> None:
    ranks = scene.ranks
    ranks[0].io.run()
    scene.pass_time(HANG_S)
    before = scene.num_free()
    scene.evict_host()  # the tree may give them up, on every rank alike
    assert ranks[0].cache.tree.digest == ranks[1].cache.tree.digest
    assert scene.num_free() == [before[0] + NUM_PAGES, before[1]]
    assert [r.cache.num_lent_pages > 0 for r in ranks] == [False, True]
    ranks.each(lambda r: r.check_ledger())
    ranks[1].io.run()  # WatchedStore looks at what is written
    ranks.tick()
    assert scene.num_free() == [before[0] + NUM_PAGES] * 2
    assert [r.cache.num_lent_pages for r in ranks] == [0, 0]
    counts = ranks[1].host["full"].allocator.counts()
    assert counts[PageState.FREE] == ranks[1].host["full"].capacity
    ranks.check_idle()


def test_pages_that_the_tree_keeps_are_only_its_own_afterwards(scene: Scene) -> None:
    scene.pass_time(HANG_S)
    scene.ranks.each(lambda r: r.io.run())
    scene.ranks.tick()
    before = scene.num_free()
    scene.evict_host()
    assert scene.num_free() == [n + NUM_PAGES for n in before]


def test_a_write_that_gets_on_does_not_hang(scene: Scene) -> None:
    for rank in scene.ranks:
        inner = rank.store.write_from

        def slow(*args: object, inner=inner) -> list[bool]:
            scene.now_s += HANG_S - 1
            return inner(*args)

        rank.store.write_from = slow
    op = scene.ranks[1].cache._backups._copying
    scene.ranks[1].io.run()  # two batches: a pool each
    assert op._watch._moved_s == scene.now_s
    assert scene.now_s >= 2 * (HANG_S - 1)
    scene.ranks[0].io.run()
    records = scene.pass_time(0)
    assert [r.num_stored_pages["full"] for (r,) in records] == [NUM_PAGES] * 2


def test_close_waits_for_it(scene: Scene) -> None:
    scene.pass_time(HANG_S)
    scene.evict_host()
    scene.ranks.each(lambda r: r.cache.close())
    for rank in scene.ranks:
        assert rank.cache.num_lent_pages == 0 and rank.host["full"].allocator.counts()[0]
