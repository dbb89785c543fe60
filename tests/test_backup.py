"""Backups: what goes to host and store by each policy, and what goes together."""

from __future__ import annotations

from typing import Any

import pytest
from manual_io import ManualIo
from ranks import PAGE_SIZE, Ranks
from spans import keys_of, make_tokens, num_attached, prefill

from hicache_ext.config import CacheConfig
from hicache_ext.errors import LayoutError, TreeError
from hicache_ext.flow.backup_line import FIRST_LOOK, WritePolicy
from hicache_ext.flow.record import BackupRecord, Outcome
from hicache_ext.tier import Tier
from hicache_ext.tree.results import HostPaths


@pytest.fixture(params=[1, 3])
def num_ranks(request: pytest.FixtureRequest) -> int:
    return request.param


def insert(ranks: Ranks, num_pages: int, start: int = 0) -> None:
    """One request that comes, computes and goes."""
    ranks.each(lambda r: r.cache.release(prefill(r, num_pages, start)))


def host_pages(ranks: Ranks, num_pages: int, start: int = 0) -> int:
    """Leading FULL pages of a prompt that the host has; with the right bytes, on every rank."""
    tokens = list(range(start, start + num_pages * PAGE_SIZE))
    ranks.each(lambda r: r.check_host(tokens))
    nodes = ranks.each(lambda r: r.cache.tree.match_prefix(tokens).full_node)
    ids = ranks[0].cache.tree.path_pages(nodes[0], "full", Tier.HOST)
    return next((i for i, page in enumerate(ids) if page < 0), len(ids))


def watch(ranks: Ranks) -> list[list[Any]]:
    """Ticks enough for write-back to hear of free pages, and what follows from it."""
    ticks = [ranks.tick() for _ in range(FIRST_LOOK)]
    ticks.append(ranks.drain())
    return [[record for tick in ticks for record in tick[i]] for i in range(len(ticks[0]))]


def backups(records: list[list[Any]]) -> list[BackupRecord]:
    return [r for r in records[0] if isinstance(r, BackupRecord)]


def watch_launches(ranks: Ranks, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Counts them, on rank 0."""
    pools, launches = ranks[0].cache.pools, []
    start = pools._start
    monkeypatch.setattr(
        pools, "_start", lambda parts, *a: (launches.append(len(parts)), start(parts, *a))[1]
    )
    return launches


def test_all_that_a_step_inserted_goes_in_one_launch_and_one_write(
    num_ranks: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    ranks = Ranks(num_ranks)
    launches = watch_launches(ranks, monkeypatch)
    for start in (0, 1000, 2000):
        insert(ranks, 3, start)
    (record,) = backups(ranks.drain())
    assert (record.num_requests, record.num_pages) == (3, {"full": 9, "swa": 9})
    assert launches == [2]  # one launch; its parts are the two pools
    assert [host_pages(ranks, 3, start) for start in (0, 1000, 2000)] == [3, 3, 3]
    for rank in ranks:
        assert rank.store.stats()["num_written_pages"] == 18
    ranks.check_idle()
    ranks.close()


def test_what_shares_pages_with_an_op_waits_for_the_next() -> None:
    """Two requests of one step with a common beginning: it is copied once."""
    ranks = Ranks(2)
    insert(ranks, 4)
    for rank in ranks:
        tokens = list(range(2 * PAGE_SIZE)) + list(range(500, 500 + 2 * PAGE_SIZE))
        match = rank.cache.match(tokens)
        new = rank.cache.alloc({"full": 2, "swa": 2})
        rank.write_device(tokens, {name: [-1, -1, *ids] for name, ids in new.items()})
        rank.cache.insert(match, tokens, {n: match.pages[n] + new[n] for n in new})
        rank.cache.release(match)
    first, second = backups(ranks.drain())
    assert (first.num_pages["full"], second.num_pages["full"]) == (4, 2)
    ranks.each(lambda r: r.check_host(tokens))
    assert num_attached(ranks, "full") == {6}
    ranks.check_idle()
    ranks.close()


def test_a_batch_ends_at_its_limit() -> None:
    ranks = Ranks(1, backup_batch_pages=5)
    for start in (0, 1000, 2000):
        insert(ranks, 3 if start else 7, start)
    assert [r.num_pages["full"] for r in backups(ranks.drain())] == [7, 3, 3]
    ranks.close()


def test_a_split_while_its_pages_are_written() -> None:
    ranks = Ranks(2, make_io=ManualIo)
    insert(ranks, 6)
    while not any(r.io._waiting for r in ranks):
        ranks.tick()
    ranks.each(lambda r: r.cache.release(r.cache.match(list(range(2 * PAGE_SIZE)))))
    ranks.each(lambda r: r.io.run())
    ranks.drain()
    ranks.each(lambda r: r.cache.flush(Tier.DEVICE))
    assert host_pages(ranks, 6) == 6
    ranks.check_idle()
    ranks.close()


def test_what_the_store_has_is_not_written_again() -> None:
    ranks = Ranks(2)
    tokens = list(range(4 * PAGE_SIZE))
    for rank in ranks:
        rank.put("full", keys_of(tokens)[:3])
    insert(ranks, 4)
    (record,) = backups(ranks.drain())
    assert record.num_stored_pages == {"full": 1, "swa": 4}
    ranks.each(lambda r: r.cache.flush())
    insert(ranks, 4)
    (again,) = backups(ranks.drain())
    assert (again.outcome, again.num_stored_pages) == (Outcome.COMMITTED, {"full": 0, "swa": 0})
    ranks.close()


def test_selective_takes_what_was_used_again(num_ranks: int) -> None:
    ranks = Ranks(num_ranks, write_policy=WritePolicy.SELECTIVE)
    insert(ranks, 4)
    assert backups(ranks.drain()) == []
    insert(ranks, 6)  # the second request with the first four pages
    (record,) = backups(ranks.drain())
    assert record.num_pages["full"] == 4
    assert host_pages(ranks, 6) == 4
    ranks.check_idle()
    ranks.close()


def test_write_back_copies_the_coldest_before_they_are_evicted(num_ranks: int) -> None:
    ranks = Ranks(
        num_ranks, num_device=16, write_policy=WritePolicy.WRITE_BACK, write_back_watermark=0.25
    )
    for start in (0, 1000):
        insert(ranks, 6, start)
        assert backups(watch(ranks)) == []  # 4 of 16 pages are free, as asked for
    insert(ranks, 2, 2000)
    (record,) = backups(watch(ranks))
    assert record.num_pages == {"full": 6, "swa": 6}
    assert [host_pages(ranks, 6, start) for start in (0, 1000)] == [6, 0]
    insert(ranks, 6, 3000)  # evicts the first, which the host keeps
    ranks.drain()
    assert host_pages(ranks, 6) == 6
    found = ranks.each(lambda r: r.cache.tree.match_prefix(list(range(6 * PAGE_SIZE))))
    assert (found[0].num_device_tokens, found[0].num_tokens) == (3 * PAGE_SIZE, 6 * PAGE_SIZE)
    ranks.check_idle()
    ranks.close()


def test_write_back_rests_when_the_host_cannot_hold_all_that_is_cold(num_ranks: int) -> None:
    """Once each victim took the host copy of another one, which was backed up again, and so on."""
    policy = {"write_policy": WritePolicy.WRITE_BACK, "write_back_watermark": 1.0}
    ranks = Ranks(num_ranks, num_device=16, num_host=4, backup_batch_pages=1, **policy)
    for start in (0, 1000, 2000):
        insert(ranks, 2, start)
    records = backups(watch(ranks))
    ranks.drain()
    assert {record.outcome for record in records} == {Outcome.COMMITTED, Outcome.CAPACITY}
    assert all(record.outcome == Outcome.CAPACITY for record in backups(watch(ranks)))
    assert sum(host_pages(ranks, 2, start) for start in (0, 1000, 2000)) == 4
    ranks.check_idle()
    ranks.close()


def test_only_write_back_may_leave_gaps_on_the_host() -> None:
    for policy in WritePolicy:
        ranks = Ranks(1, write_policy=policy)
        paths = ranks[0].cache.tree._state.host_paths
        assert (paths is HostPaths.GAPS) == (policy is WritePolicy.WRITE_BACK)
        ranks.close()


def test_write_through_goes_on_when_the_host_is_full_of_copies_of_device_pages(
    num_ranks: int,
) -> None:
    ranks = Ranks(num_ranks, num_device=32, num_host=8)
    for start in (0, 1000, 2000):
        insert(ranks, 4, start)
        (record,) = backups(ranks.drain())
        assert record.outcome == Outcome.COMMITTED
    # The oldest pages are the next that the device gives up: their host copies stay longest.
    assert [host_pages(ranks, 4, start) for start in (0, 1000, 2000)] == [4, 0, 4]
    ranks.check_idle()
    ranks.close()


def test_a_host_copy_in_use_is_no_duplicate_to_give_up() -> None:
    ranks = Ranks(1, num_host=8)
    held = [prefill(ranks[0], 4, start) for start in (0, 1000)]
    ranks.drain()
    insert(ranks, 4, 2000)
    pins = [ranks[0].cache.tree.lock(match.node, Tier.HOST) for match in held]
    assert ranks[0].cache.tree.drop_duplicates({"full": 1}).host == {"full": [], "swa": []}
    for pin in pins:
        ranks[0].cache.tree.unlock(pin)
    with pytest.raises(TreeError, match="drop -1 host duplicates"):
        ranks[0].cache.tree.drop_duplicates({"full": -1})
    for match in held:
        ranks[0].cache.release(match)
    ranks.drain()
    ranks.close()


@pytest.mark.parametrize("num_ticks", range(5))
def test_close_in_every_phase_gives_all_back(num_ticks: int, num_ranks: int) -> None:
    ranks = Ranks(num_ranks, make_io=ManualIo)
    insert(ranks, 3)
    insert(ranks, 3, 1000)
    for _ in range(num_ticks):
        ranks.each(lambda r: r.cache.publish())
        ranks.each(lambda r: r.cache.apply())
    insert(ranks, 2, 2000)
    for rank in ranks:
        rank.cache.close()
        rank.cache.tree.check_integrity()
        rank.cache.pools.check_owned(rank.cache.tree.owned_pages)
        assert not rank.cache.tree._state.plans and not rank.cache.tree._state.receipts
        for pool in (*rank.device.values(), *rank.host.values()):
            counts = {state.name: n for state, n in pool.allocator.counts().items()}
            assert counts["RESERVED"] == counts["IO"] == 0
    ranks.close()


@pytest.mark.parametrize(
    "wrong",
    [
        {"write_policy": "write_back"},
        {"min_backup_hits": 0},
        {"backup_batch_pages": 0},
        {"write_back_watermark": 1.5},
        {"load_back_threshold_tokens": -1},
    ],
)
def test_settings_that_cannot_be(wrong: dict[str, Any]) -> None:
    (name,) = wrong
    with pytest.raises(LayoutError, match=name):
        CacheConfig(page_size=4, **wrong)


def test_the_prompt_of_a_backup_is_found_in_the_store_by_another_cache() -> None:
    ranks = Ranks(2)
    insert(ranks, 4)
    ranks.drain()
    for rank in ranks:
        assert rank.store.exists("full", keys_of(make_tokens(4, 0))) == [True] * 4
    ranks.close()
