"""One test per defect that was found in the cache and its flows, named after the defect."""

from __future__ import annotations

from typing import Any

import pytest
from manual_io import ManualIo
from ranks import PAGE_SIZE, Rank, Ranks, publish
from spans import W, fill_stores, make_tokens, prefetch, prefill

from hicache_ext.agreement.local import LocalGroup
from hicache_ext.errors import AgreementError, CapacityError, CudaError, TreeError
from hicache_ext.flow import pools as flow_pools
from hicache_ext.flow.io import InlineIo, ThreadIo
from hicache_ext.flow.prefetch_rules import PrefetchRules
from hicache_ext.flow.record import Outcome
from hicache_ext.plan_set import PlanSet
from hicache_ext.pool import PageState
from hicache_ext.tier import Tier
from hicache_ext.tree import PageCounts


class SlowTicket:
    """A copy that goes on until the test says otherwise, as on a GPU."""

    def __init__(self, error: Exception | None = None) -> None:
        self.is_done = False
        self._error = error

    def query(self) -> bool:
        return self.is_done

    def wait(self) -> None:
        self.is_done = True
        if self._error is not None:
            raise self._error

    def result(self) -> int:
        self.wait()
        return 0


def test_a_match_keeps_device_pages_that_are_not_yet_a_device_prefix() -> None:
    """The window: A's SWA on the host, B's on the device alone. Evicting B's broke the match."""
    rank = Rank(0, LocalGroup())
    cache = rank.cache
    first = prefill(rank, W)  # its lock keeps A's host copy
    cache.drain()
    held = {name: pool.alloc(pool.num_free) for name, pool in rank.host.items()}
    cache.release(prefill(rank, W + 2))  # no room: B is on the device alone
    cache.drain()
    cache.release(first)
    for name, pool in rank.host.items():
        pool.free(held[name])
    cache.evict(Tier.DEVICE, {"swa": W})  # A's window, which the host has
    match = cache.match(list(range((W + 2) * PAGE_SIZE)))
    assert (match.num_device_tokens, match.num_host_tokens) == (0, (W + 2) * PAGE_SIZE)
    cache.evict(Tier.DEVICE, {"full": W + 2, "swa": W})
    cache.load_back(match)
    assert cache.drain()[0].outcome == Outcome.COMMITTED
    assert match.num_device_tokens == (W + 2) * PAGE_SIZE
    cache.release(match)
    rank.close()


@pytest.mark.parametrize("failing", [0, 1])
def test_a_copy_that_fails_on_one_rank_waits_for_the_others(
    failing: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The pages were freed on a rank whose own copy still wrote into them."""
    ranks = Ranks(2)
    tickets = [SlowTicket(), SlowTicket()]

    def start(parts: PlanSet, **kw: Any) -> SlowTicket:
        if parts.parts[0].src is ranks[failing].device["full"].buffer:
            raise CudaError("no stream")
        return tickets.pop()

    running = list(tickets)
    monkeypatch.setattr(flow_pools, "copy_set", start)
    matches = ranks.each(lambda r: prefill(r, 2))
    for _ in range(5):
        ranks.tick()
    other = ranks[1 - failing]
    assert other.host["full"].allocator.counts()[PageState.IO] == 2
    for ticket in running:
        ticket.is_done = True
    assert [r[0].outcome for r in ranks.drain()] == [Outcome.FAILED] * 2
    for rank, match in zip(ranks, matches, strict=True):
        rank.cache.release(match)
    ranks.check_idle()
    ranks.close()


def test_copies_that_were_started_before_one_failed_are_waited_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """FULL is under way when SWA cannot start: its pages were given back at once."""
    rank = Rank(0, LocalGroup())
    ticket = SlowTicket()

    def start(parts: PlanSet, **kw: Any) -> SlowTicket:
        if parts.parts[0].src is rank.device["swa"].buffer:
            raise CudaError("no stream")
        return ticket

    monkeypatch.setattr(flow_pools, "MAX_PARTS", 1)  # two launches
    monkeypatch.setattr(flow_pools, "copy_set", start)
    match = prefill(rank, 2)
    assert rank.cache.drain()[0].outcome == Outcome.FAILED
    assert ticket.is_done
    rank.cache.release(match)
    rank.close()


def test_a_copy_that_could_not_start_for_a_foreign_reason_is_not_committed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A RuntimeError of the framework left the op in COPY with no copy: done, it seemed."""
    ranks = Ranks(2)
    copy = flow_pools.copy_set

    def start(parts: PlanSet, **kw: Any) -> Any:
        if parts.parts[0].src is ranks[1].device["full"].buffer:
            raise RuntimeError("out of streams")
        return copy(parts, **kw)

    monkeypatch.setattr(flow_pools, "copy_set", start)
    matches = ranks.each(lambda r: prefill(r, 2))
    for records in ranks.drain():
        assert records[0].outcome == Outcome.FAILED
    for rank, match in zip(ranks, matches, strict=True):
        rank.cache.release(match)
    ranks.check_idle()
    ranks.close()


def test_close_gives_back_everything_when_waiting_for_a_copy_raises(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The first failed ticket ended the wait, and the close."""
    rank = Rank(0, LocalGroup())
    tickets = [SlowTicket(CudaError("lost")), SlowTicket()]
    started = list(reversed(tickets))
    monkeypatch.setattr(flow_pools, "MAX_PARTS", 1)  # two launches
    monkeypatch.setattr(flow_pools, "copy_set", lambda parts, **kw: started.pop())
    match = prefill(rank, 2)
    rank.tick()
    rank.cache.close()
    assert [ticket.is_done for ticket in tickets] == [True, True]
    rank.cache.release(match)
    for pool in rank.host.values():
        assert pool.num_free == pool.capacity
    rank.close()


def test_a_backup_does_not_give_up_what_it_hangs_on() -> None:
    """A full host dropped the parent's copy for the child's pages, which then had no place."""
    rank = Rank(0, LocalGroup())
    cache = rank.cache
    cache.release(prefill(rank, W))
    cache.drain()
    held = {name: pool.alloc(pool.num_free) for name, pool in rank.host.items()}
    cache.release(prefill(rank, W + 2))
    assert cache.drain()[0].outcome == Outcome.CAPACITY
    assert cache.tree.page_counts(Tier.HOST, "full") == PageCounts(W, 0)
    for name, pool in rank.host.items():
        pool.free(held[name])
    rank.check_ledger()
    rank.close()


@pytest.mark.parametrize("make_io", [InlineIo, ThreadIo])
@pytest.mark.parametrize("call", ["read_into", "write_from"])
def test_pools_close_after_a_store_call_that_raised(call: str, make_io: type) -> None:
    """The error's traceback kept views of the host pages alive."""
    rank = Rank(0, LocalGroup(), io=make_io())
    tokens = make_tokens(6)
    fill_stores([rank], tokens)  # type: ignore[arg-type]
    rank.store.faults.raising = {call}
    if call == "read_into":
        rank.cache.prefetch(tokens)
    else:
        rank.cache.release(prefill(rank, 2))
    while not rank.store.injected:
        rank.cache.tick()
    assert rank.cache.num_in_flight == 1
    rank.close()


def test_pools_close_after_a_copy_that_failed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The failed backup was kept until the next one, its error with it, and that the buffers."""
    rank = Rank(0, LocalGroup())

    def start(parts: PlanSet, **kw: Any) -> Any:
        view = parts.parts[0].dst.array[:1]
        raise CudaError(f"no stream {view}")

    monkeypatch.setattr(flow_pools, "copy_set", start)
    rank.cache.release(prefill(rank, 2))
    assert rank.cache.drain()[0].outcome == Outcome.FAILED
    rank.close()


@pytest.mark.parametrize("bad", [{"full": 4, "swa": -1}, {"full": 4, "mamba": 1}])
def test_alloc_of_nonsense_leaks_nothing(bad: dict[str, int]) -> None:
    """The pages of the pools before the bad one stayed reserved."""
    rank = Rank(0, LocalGroup())
    with pytest.raises(CapacityError, match=r"swa|mamba"):
        rank.cache.alloc(bad)
    assert rank.device["full"].num_free == rank.device["full"].capacity
    rank.close()


@pytest.mark.parametrize("call", ["exists", "read_into"])
def test_a_store_that_answers_more_than_was_asked(call: str) -> None:
    """The hit was longer than the span."""
    ranks = Ranks(2)
    tokens = make_tokens(6)
    fill_stores(ranks, tokens)
    honest = getattr(ranks[0].store, call)
    for rank in ranks:
        honest = getattr(rank.store, call)
        setattr(rank.store, call, lambda *args, honest=honest: [*honest(*args), True, True])
    for record in prefetch(ranks, tokens):
        assert record.outcome == Outcome.COMMITTED and not record.losses
        assert record.num_agreed_tokens == record.num_loaded_tokens == 6 * PAGE_SIZE
    ranks.close()


@pytest.mark.parametrize("what", ["device pool", "window", "threshold"])
def test_ranks_of_another_configuration_are_told_at_the_first_tick(what: str) -> None:
    """Unequal device pools evict unequally in alloc: the ranks parted much later, or not at all."""
    groups = LocalGroup.simulated(2)
    other: dict[str, Any] = {
        "device pool": {"num_device": 16},
        "window": {"window_tokens": 11},
        "threshold": {"prefetch": PrefetchRules(threshold_tokens=8)},
    }[what]
    ranks = [Rank(0, groups[0]), Rank(1, groups[1], **other)]
    publish(ranks)
    for rank in ranks:
        with pytest.raises(AgreementError, match="schema"):
            rank.cache.apply()
        rank.close()


def test_an_insert_without_its_window_is_refused() -> None:
    """The match said that all of it was usable, with -1 for pages of its window."""
    rank = Rank(0, LocalGroup())
    tokens = list(range(6 * PAGE_SIZE))
    match = rank.cache.match(tokens)
    pages = rank.cache.alloc({"full": 6, "swa": 6})
    holed = [*pages["swa"][: 6 - W], -1, *pages["swa"][7 - W :]]
    with pytest.raises(TreeError, match=f"swa page {6 - W} of 6"):
        rank.cache.insert(match, tokens, {**pages, "swa": holed})
    holed = [-1] * (6 - W) + pages["swa"][6 - W :]
    rank.cache.free({"swa": pages["swa"][: 6 - W]})
    rank.cache.insert(match, tokens, {**pages, "swa": holed})
    assert match.pages["swa"] == holed
    rank.cache.release(match)
    rank.close()


def test_a_group_that_refuses_a_tick_makes_the_cache_unusable() -> None:
    """A second tick went on with the next epoch, of which the other ranks know nothing."""
    group = LocalGroup()
    rank = Rank(0, group)
    group.close()
    with pytest.raises(AgreementError, match="closed"):
        rank.cache.tick()
    with pytest.raises(AgreementError, match="no longer agree"):
        rank.cache.tick()
    rank.close()


def test_a_read_that_failed_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    """It was logged at every tick in which another rank was still reading."""
    ranks = Ranks(2, make_io=ManualIo)
    tokens = make_tokens(6)
    fill_stores(ranks, tokens)
    ranks[0].store.faults.raising = {"read_into"}
    ranks.each(lambda r: r.cache.prefetch(tokens))
    ranks.tick()
    ranks.each(lambda r: r.io.run())
    ranks.tick(), ranks.tick()
    ranks[0].io.run()
    for _ in range(4):
        ranks.tick()
    ranks[1].io.run()
    ranks.drain()
    assert caplog.text.count("prefetch read of full failed") == 1
    ranks.close()
