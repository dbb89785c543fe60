"""Backups that fail: tried again after a while, by themselves, unless their pages are gone."""

from __future__ import annotations

from typing import Any

import pytest
from ranks import Ranks
from test_backup import backups, host_pages, insert

from hicache_ext.flow.backup_line import MAX_TRIES, PAUSE_TICKS
from hicache_ext.flow.record import Outcome
from hicache_ext.tier import Tier


@pytest.mark.parametrize("num_ranks", [1, 3])
def test_a_failed_backup_is_tried_again_after_a_while(num_ranks: int) -> None:
    ranks = Ranks(num_ranks)
    pools, copy = ranks[-1].cache.pools, ranks[-1].cache.pools.copy
    num_failures = [2]

    def fails_twice(*args: Any) -> Any:
        if num_failures[0]:
            num_failures[0] -= 1
            raise OSError("told to fail")
        return copy(*args)

    pools.copy = fails_twice  # type: ignore[method-assign]
    insert(ranks, 3)
    (first,) = backups(ranks.drain())
    assert first.outcome == Outcome.FAILED
    ends = []
    for tick in range(PAUSE_TICKS * 4):
        ends += [(tick, r.outcome) for r in backups(ranks.tick())]
    assert [outcome for _, outcome in ends] == [Outcome.FAILED, Outcome.COMMITTED]
    pauses = ends[0][0], ends[1][0] - ends[0][0]
    per_tick = 1 + ranks[0].depth
    assert pauses[0] >= PAUSE_TICKS // per_tick and pauses[1] >= 2 * PAUSE_TICKS // per_tick
    assert host_pages(ranks, 3) == 3
    ranks.check_idle()
    ranks.close()


def test_a_backup_that_never_fits_is_given_up() -> None:
    ranks = Ranks(1, num_host=2)
    insert(ranks, 3)
    records = backups(ranks.drain())
    for _ in range(PAUSE_TICKS * 4):
        records += backups(ranks.tick())
    assert [r.outcome for r in records] == [Outcome.CAPACITY] * MAX_TRIES
    ranks.check_idle()
    ranks.close()


def test_what_was_evicted_is_not_tried_again() -> None:
    ranks = Ranks(2, num_host=2)
    insert(ranks, 3)
    assert len(backups(ranks.drain())) == 1
    ranks.each(lambda r: r.cache.flush())
    records = [r for _ in range(PAUSE_TICKS) for r in backups(ranks.tick())]
    assert records == []
    ranks.check_idle()
    ranks.close()


def test_what_is_evicted_while_its_second_try_waits_in_line() -> None:
    """Two failed together and are tried again one by one; the second is gone by then."""
    ranks = Ranks(2, num_host=2)
    insert(ranks, 3)
    insert(ranks, 3, 1000)
    assert [r.num_requests for r in backups(ranks.drain())] == [2]
    for _ in range(PAUSE_TICKS + 2):
        ranks.each(lambda r: r.cache.publish())
        ended = ranks.each(lambda r: r.cache.apply())
        if ranks[0].cache.num_in_flight:
            break
    assert ranks[0].cache.num_in_flight  # the second, and maybe the first, which pins its pages
    ranks.each(lambda r: r.cache.evict(Tier.DEVICE, {"full": 99, "swa": 99}))
    outcomes = [r.outcome for r in backups(ended) + backups(ranks.drain())]
    assert outcomes == [Outcome.CAPACITY]
    ranks.check_idle()
    ranks.close()
