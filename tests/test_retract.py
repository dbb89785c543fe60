"""Retraction: a running request's pages go to L2 and come back, with one owner all the time."""

from __future__ import annotations

from typing import Any

import pytest
from ranks import PAGE_SIZE, Rank, Ranks, check_device
from spans import prefill

from hicache_ext.errors import CapacityError, TreeError
from hicache_ext.flow.record import Outcome, ParkRecord, RestoreRecord
from hicache_ext.flow.retract import Parked, ParkState
from hicache_ext.match import Match
from hicache_ext.tier import Tier

NUM_PAGES = 5
TOKENS = list(range(NUM_PAGES * PAGE_SIZE))
Pages = dict[str, list[int]]


@pytest.fixture(params=[1, 3])
def ranks(request: pytest.FixtureRequest) -> Any:
    made = Ranks(request.param)
    yield made
    made.close()


def run(rank: Rank) -> tuple[Match, Pages]:
    """Two pages from the tree and three of its own; page 0 has left the window."""
    rank.cache.release(prefill(rank, 2))
    match = rank.cache.match(TOKENS)
    new = rank.cache.alloc({"full": 3, "swa": 3})
    assert new is not None
    rank.write_device(TOKENS, {name: [-1, -1, *ids] for name, ids in new.items()})
    return match, {
        "full": match.pages["full"] + new["full"],
        "swa": [-1, *match.pages["swa"][1:], *new["swa"]],
    }


def park(ranks: Ranks) -> tuple[list[Parked], list[Pages]]:
    running = ranks.each(run)
    ranks.drain()
    handles = [
        rank.cache.park(match, len(TOKENS) - 1, pages)
        for rank, (match, pages) in zip(ranks, running, strict=True)
    ]
    return handles, [pages for _, pages in running]


def restore(ranks: Ranks, handles: list[Parked]) -> set[int]:
    """The ops' ids, one per rank."""
    return {rank.cache.restore(handle) for rank, handle in zip(ranks, handles, strict=True)}


def outcomes(records: list[list[Any]], kind: type) -> set[Outcome]:
    return {r.outcome for mine in records for r in mine if isinstance(r, kind)}


def num_reserved(rank: Rank, tier: Tier) -> list[int]:
    pools = rank.device if tier == Tier.DEVICE else rank.host
    counts = [pool.allocator.counts() for pool in pools.values()]
    return [sum(n for s, n in c.items() if s.name in ("RESERVED", "IO")) for c in counts]


def test_parked_and_restored(ranks: Ranks) -> None:
    handles, _ = park(ranks)
    assert outcomes(ranks.drain(), ParkRecord) == {Outcome.COMMITTED}
    for rank, handle in zip(ranks, handles, strict=True):
        assert handle.state == ParkState.PARKED
        assert num_reserved(rank, Tier.DEVICE) == [0, 0]
        assert num_reserved(rank, Tier.HOST) == [5, 4]
        rank.cache.flush()  # the prefix is gone everywhere: the handle needs it not
        for pool in rank.device.values():
            pool.poison(range(pool.capacity))
    assert len(restore(ranks, handles)) == 1
    assert outcomes(ranks.drain(), RestoreRecord) == {Outcome.COMMITTED}
    for rank, handle in zip(ranks, handles, strict=True):
        assert handle.state == ParkState.RUNNING and handle.pages["swa"][0] == -1
        check_device(rank, TOKENS, handle.pages)
        assert num_reserved(rank, Tier.HOST) == [0, 0]
        assert num_reserved(rank, Tier.DEVICE) == [5, 4]
        rank.cache.free(handle.pages)
    ranks.check_idle()


def test_a_restored_request_goes_on_with_match_and_insert(ranks: Ranks) -> None:
    handles, _ = park(ranks)
    ranks.drain()
    restore(ranks, handles)
    ranks.drain()
    for rank, handle in zip(ranks, handles, strict=True):
        match = rank.cache.match(TOKENS)
        rank.cache.insert(match, TOKENS, handle.pages)
        check_device(rank, TOKENS, match.pages)
        rank.cache.release(match)
    ranks.drain()
    ranks.check_idle()


def test_discarded_while_parked(ranks: Ranks) -> None:
    handles, _ = park(ranks)
    ranks.drain()
    for rank, handle in zip(ranks, handles, strict=True):
        rank.cache.discard(handle)
        assert handle.state == ParkState.GONE
        for call in (rank.cache.discard, rank.cache.restore):
            with pytest.raises(TreeError, match=r"retracted request \d+, which is gone"):
                call(handle)
    ranks.check_idle()


def test_discarded_on_the_way_out_and_on_the_way_back(ranks: Ranks) -> None:
    for way_back in (False, True):
        handles, _ = park(ranks)
        if way_back:
            ranks.drain()
            restore(ranks, handles)
        ranks.tick()
        for rank, handle in zip(ranks, handles, strict=True):
            rank.cache.discard(handle)
            with pytest.raises(TreeError, match="which is discarded"):
                rank.cache.discard(handle)
        ranks.drain()
        assert {handle.state for handle in handles} == {ParkState.GONE}
        ranks.check_idle()


def test_no_room_on_one_host_leaves_the_request_running() -> None:
    ranks = Ranks(2, num_host=[32, 4])
    handles, pages = park(ranks)
    assert outcomes(ranks.drain(), ParkRecord) == {Outcome.CAPACITY}
    for rank, handle, ids in zip(ranks, handles, pages, strict=True):
        assert handle.state == ParkState.RUNNING
        check_device(rank, TOKENS, ids)
        match = rank.cache.match(TOKENS)  # the first two pages, which are locked by it still
        owned = {n: [i for i in ids[n] if i not in match.pages[n]] for n in ids}
        rank.cache.free(owned)
        rank.cache.release(match)
    ranks.check_idle()
    ranks.close()


def test_no_room_on_the_device_leaves_it_parked(ranks: Ranks) -> None:
    handles, _ = park(ranks)
    ranks.drain()
    taken = ranks.each(lambda r: r.cache.alloc({"full": 30, "swa": 0}))
    restore(ranks, handles)
    assert outcomes(ranks.drain(), RestoreRecord) == {Outcome.CAPACITY}
    for rank, handle, pages in zip(ranks, handles, taken, strict=True):
        assert handle.state == ParkState.PARKED
        rank.cache.free(pages)
        rank.cache.restore(handle)
    assert outcomes(ranks.drain(), RestoreRecord) == {Outcome.COMMITTED}
    for rank, handle in zip(ranks, handles, strict=True):
        check_device(rank, TOKENS, handle.pages)
        rank.cache.free(handle.pages)
    ranks.check_idle()


def test_a_copy_that_fails_on_one_rank_fails_on_all(ranks: Ranks) -> None:
    handles, pages = park(ranks)

    def fails(*args: Any) -> Any:
        raise OSError("told to fail")

    ranks[-1].cache.pools.copy = fails  # type: ignore[method-assign]
    assert outcomes(ranks.drain(), ParkRecord) == {Outcome.FAILED}
    for rank, handle, ids in zip(ranks, handles, pages, strict=True):
        assert handle.state == ParkState.RUNNING
        check_device(rank, TOKENS, ids)
        assert num_reserved(rank, Tier.HOST) == [0, 0]
        assert num_reserved(rank, Tier.DEVICE) == [3, 3]


def test_nobody_frees_or_releases_what_is_being_parked(ranks: Ranks) -> None:
    running = ranks.each(run)
    ranks.drain()
    rank, (match, pages) = ranks[0], running[0]
    handles = [r.cache.park(m, len(TOKENS), p) for r, (m, p) in zip(ranks, running, strict=True)]
    with pytest.raises(CapacityError, match="is IO, not a page that alloc handed out"):
        rank.cache.free({"full": pages["full"][2:]})
    with pytest.raises(TreeError, match="is being parked"):
        rank.cache.release(match)
    with pytest.raises(TreeError, match="is being parked already"):
        rank.cache.park(match, len(TOKENS), pages)
    ranks.drain()
    with pytest.raises(TreeError):
        rank.cache.release(match)  # park has done it
    for r, handle in zip(ranks, handles, strict=True):
        r.cache.discard(handle)
    ranks.check_idle()


def test_bad_pages_change_nothing(ranks: Ranks) -> None:
    running = ranks.each(run)
    ranks.drain()
    digest = ranks[0].cache.tree.digest
    rank, (match, pages) = ranks[0], running[0]
    with pytest.raises(CapacityError, match="5 full pages for 99 tokens"):
        rank.cache.park(match, 99, pages)
    free = next(i for i in range(32) if i not in pages["full"])
    with pytest.raises(CapacityError, match="not a page that alloc handed out"):
        rank.cache.park(match, len(TOKENS), {**pages, "full": [*pages["full"][:4], free]})
    assert rank.cache.tree.digest == digest and rank.cache.num_in_flight == 0


@pytest.mark.parametrize("num_ticks", range(4))
@pytest.mark.parametrize("way", ["out", "parked", "back"])
def test_close_in_every_phase(ranks: Ranks, num_ticks: int, way: str) -> None:
    """The host pages come back; device pages that are the request's stay its own."""
    handles, _ = park(ranks)
    if way != "out":
        ranks.drain()
    if way == "back":
        for rank, handle in zip(ranks, handles, strict=True):
            rank.cache.restore(handle)
    for _ in range(num_ticks):
        ranks.each(lambda r: r.cache.publish())
        ranks.each(lambda r: r.cache.apply())
    for rank, handle in zip(ranks, handles, strict=True):
        rank.cache.close()
        rank.check_ledger()
        assert num_reserved(rank, Tier.HOST) == [0, 0]
        if handle.state == ParkState.RUNNING:
            assert num_reserved(rank, Tier.DEVICE) == ([3, 3] if way == "out" else [5, 4])
        else:
            assert handle.state == ParkState.GONE
            assert num_reserved(rank, Tier.DEVICE) == [0, 0]
