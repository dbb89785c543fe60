"""What goes wrong on one rank alone, half-way through a tick: it ticks no more, leaves a file, and
tells the ranks that wait for it.
"""

from __future__ import annotations

import re
import threading
import uuid
from pathlib import Path
from typing import Any

import pytest
from group_worker import ProcessRank
from ranks import Rank, Ranks
from shm_tools import LANES
from spans import fill_stores, make_tokens, prefill
from together import WaitingGroup, on_two_hosts, together

from hicache_ext.agreement import HierarchicalGroup, LocalGroup, ShmGroup
from hicache_ext.errors import AgreementError, HiCacheError
from hicache_ext.flow.prefetch import PrefetchOp

FAILED = r"rank 1 failed in tick (\d): ValueError\('of one rank'\)"


@pytest.fixture(autouse=True)
def dumps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HICACHE_DUMP_DIR", str(tmp_path))
    return tmp_path


def fail(*_: Any) -> None:
    raise ValueError("of one rank")


def fail_to_apply(rank: Rank) -> None:
    op = next(iter(rank.cache._prefetches._ops.values()))
    assert isinstance(op, PrefetchOp)
    op.apply = fail  # type: ignore[method-assign]


def fail_to_publish(rank: Rank) -> None:
    rank.cache._engine._digest = fail  # type: ignore[assignment]


@pytest.mark.parametrize("break_it", [fail_to_apply, fail_to_publish])
def test_a_rank_that_fails_half_way_leaves_a_file_and_gives_all_pages_back(
    dumps: Path, break_it: Any
) -> None:
    ranks = Ranks(2)
    tokens = make_tokens(4)
    fill_stores(ranks, tokens)
    ranks.each(lambda r: r.cache.prefetch(tokens))
    ranks.each(lambda r: r.cache.release(prefill(r, 2, 500)))
    break_it(ranks[1])
    with pytest.raises(ValueError, match="of one rank"):
        for _ in range(3):
            ranks.each(lambda r: r.cache.publish())
            ranks.each(lambda r: r.cache.apply())
    (path,) = dumps.iterdir()
    assert re.match(FAILED, path.read_text()) and "alloc pages" in path.read_text()
    for call in (ranks[1].cache.publish, ranks[1].cache.apply, ranks[1].cache.drain):
        with pytest.raises(AgreementError, match=FAILED) as error:
            call()
        assert str(path) in str(error.value)
    ranks[1].cache.close()
    ranks[1].check_ledger()
    for pool in (*ranks[1].device.values(), *ranks[1].host.values()):
        counts = {state.name: n for state, n in pool.allocator.counts().items()}
        assert counts["RESERVED"] == counts["IO"] == 0, counts
    with pytest.raises(AgreementError, match=r"ranks \[1\] have not issued it"):
        if ranks[0].cache._engine._may_apply:
            ranks[0].cache.apply()
        for _ in range(3):
            ranks[0].cache.tick()
    assert len(list(dumps.iterdir())) == 1  # a rank that is missed is no failure of this one
    ranks.close()


def test_the_others_are_told_why_it_does_not_come() -> None:
    name = f"test-{uuid.uuid4().hex}"
    peer = ProcessRank()
    made = Rank(0, LocalGroup())
    num_lanes = made.cache._engine._schema.num_lanes
    made.close()
    peer.start("make_shm", name, 0, 2, num_lanes, 10.0)
    group = ShmGroup(name, 1, 2, num_lanes, deadline_s=10.0)
    peer.finish()
    rank = Rank(1, group)
    fail_to_publish(rank)
    with pytest.raises(ValueError, match="of one rank"):
        rank.cache.tick()
    peer.call("issue", LANES.repeat(num_lanes)[:num_lanes])
    with pytest.raises(AgreementError, match=rf"late ranks: 1 \(pid \d+: {FAILED}\) after"):
        peer.call("result", 0.1)
    rank.close()
    group.close()
    with pytest.raises(AgreementError, match=rf"has closed the group after 0 ticks: {FAILED}"):
        peer.call("result", 5.0)
    peer.kill()


def test_who_was_interrupted_while_it_waited_can_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    ranks = Ranks(2)
    for _ in range(ranks[0].depth):
        ranks.each(lambda r: r.cache.publish())
        ranks.each(lambda r: r.cache.apply())
    ranks.each(lambda r: r.cache.publish())

    def interrupted(_: float) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(ranks[0].cache._engine._group, "result", interrupted)
        with pytest.raises(KeyboardInterrupt):
            ranks[0].cache.apply()
    ranks.each(lambda r: r.cache.apply())
    ranks.tick()
    ranks.close()


def test_close_while_another_thread_ticks() -> None:
    """It gave back pages that the tick was about to hand on."""
    group, entered, go_on = LocalGroup(), threading.Event(), threading.Event()
    rank = Rank(0, group, tick_depth=0)
    inner = group.result

    def slow(deadline_s: float) -> Any:
        entered.set()
        assert go_on.wait(20)
        return inner(deadline_s)

    group.result = slow  # type: ignore[method-assign]
    rank.cache.prefetch(make_tokens(4))
    ticking = threading.Thread(target=rank.cache.tick)
    ticking.start()
    assert entered.wait(20)
    with pytest.raises(HiCacheError, match="from two threads"):
        rank.cache.close()
    go_on.set()
    ticking.join(20)
    assert rank.cache.num_in_flight == 0
    rank.cache.tick()
    rank.close()


# -- ranks of several hosts --------------------------------------------------------------------


def test_a_leader_whose_thread_fails_is_told_at_once() -> None:
    class Failing(WaitingGroup):
        issue = fail  # type: ignore[assignment]

    inside, answers = (WaitingGroup.simulated(1)[0] for _ in range(2))
    between = WaitingGroup.simulated(2)[0]
    between.__class__ = Failing
    group = HierarchicalGroup(
        inside, answers, between, hosts=[[0], [1]], rank=0, num_lanes=LANES.size
    )
    group.issue(LANES)
    with pytest.raises(AgreementError, match=r"rank 0 of 2.*its thread failed: ValueError\('of"):
        group.result(20.0)
    group.close()


def test_a_late_leader_is_waited_for_once() -> None:
    """The text had the slice in which its thread waits as well: "after 0.05 s", of a whole wait."""
    groups = on_two_hosts(3, LANES.size)

    def wait(group: HierarchicalGroup) -> str:
        if group.rank < 2:
            group.issue(LANES)
            with pytest.raises(AgreementError) as error:
                group.result(0.3)
            return str(error.value)
        return ""

    text = together(wait, groups)[0]
    assert re.search(r"between hosts.*have not issued it.*; given up after 0.3 s$", text), text
    for group in groups:
        group.close()
