"""A prefetch that is given up, in every phase: every page comes back, on every rank."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from manual_io import ManualIo
from ranks import Ranks
from spans import fill_stores, make_tokens, num_attached

from hicache_ext.flow.op import Phase
from hicache_ext.flow.prefetch_rules import PrefetchPolicy, PrefetchRules
from hicache_ext.flow.read import READ_BATCH_BYTES, read_span
from hicache_ext.flow.record import Outcome
from hicache_ext.pool import PageState
from hicache_ext.storage import Limit


def reading(ranks: Ranks, tokens: list[int]) -> int:
    """The op that prefetches `tokens`; its reads wait on the I/O threads."""
    fill_stores(ranks, tokens)
    op_id = ranks.each(lambda r: r.cache.prefetch(tokens))[0]
    ranks.tick()
    ranks.each(lambda r: r.io.run())
    ranks.tick(), ranks.tick()
    return op_id


@pytest.mark.parametrize("when", ["before", "query", "reserve", "during", "after"])
def test_abort(when: str) -> None:
    """Before, during and after the read: every page comes back, on both ranks."""
    ranks = Ranks(2, make_io=ManualIo)
    ios = ranks.each(lambda r: r.io)
    tokens = make_tokens(6)
    fill_stores(ranks, tokens)
    op_id = ranks.each(lambda r: r.cache.prefetch(tokens))[0]

    def step(run_io: bool) -> list:
        if run_io:
            for io in ios:
                io.run()
        return ranks.tick()[0]

    if when != "before":
        step(run_io=False)
    if when in ("reserve", "during", "after"):
        step(run_io=True)  # the endpoints are agreed, pages reserved
    if when in ("during", "after"):
        step(run_io=False)  # the vote has passed, the read waits on the I/O thread
    if when == "after":
        for io in ios:
            assert io.run() == 1
    else:
        ios[0].run()  # only one rank gets further
    assert ranks.each(lambda r: r.cache.abort(op_id)) == [True, True]
    records = []
    for _ in range(5):
        records += step(run_io=True)
    assert [record.outcome for record in records] == [Outcome.ABORTED]
    assert ranks.each(lambda r: r.cache.abort(op_id)) == [False, False]
    assert num_attached(ranks, "full") == {0} == num_attached(ranks, "swa")
    ranks.check_idle()
    ranks.close()


def test_abort_on_one_rank_aborts_on_all() -> None:
    ranks = Ranks(2)
    tokens = make_tokens(6)
    fill_stores(ranks, tokens)
    op_id = ranks.each(lambda r: r.cache.prefetch(tokens))[0]
    ranks[1].cache.abort(op_id)
    for mine in ranks.drain():
        assert mine[0].outcome == Outcome.ABORTED
    ranks.check_idle()
    ranks.close()


def test_close_during_the_read_frees_every_page() -> None:
    ranks = Ranks(1, make_io=ManualIo)
    io = ranks[0].io
    tokens = make_tokens(6)
    fill_stores(ranks, tokens)
    ranks[0].cache.prefetch(tokens)
    ranks.tick(), io.run(), ranks.tick(), ranks.tick()
    assert ranks[0].host["full"].allocator.counts()[PageState.IO] == 6
    io.run()
    ranks[0].cache.close()
    ranks.check_idle()
    ranks.close()


@pytest.mark.parametrize("num_pages", [1, 63, 64, 65, 130])
@pytest.mark.parametrize("lost", [0, 62, 63, 64, 128, None])
def test_a_read_in_batches_ends_at_the_first_gap(num_pages: int, lost: int | None) -> None:
    """Each page is asked for once, in order, and none of a batch behind the gap."""
    asked: list[int] = []
    num_batch_pages = 64

    class Page(int):
        nbytes = READ_BATCH_BYTES // num_batch_pages

    class Store:
        def read_into(self, pool: str, keys: list[int], pages: list[Page], _: Limit) -> list[bool]:
            assert pages == [-key for key in keys] and len(keys) <= num_batch_pages
            asked.extend(keys)
            return [key != lost for key in keys]

    keys = list(range(num_pages))
    pool = SimpleNamespace(
        page_view=lambda i: Page(-i), spec=SimpleNamespace(page_bytes=Page.nbytes)
    )
    pools = SimpleNamespace(get=lambda tier, name: pool, sidecars_of=lambda name: [])
    span = SimpleNamespace(keys=keys, window_pages={}, has_whole_windows=True)
    arrived = read_span(Store(), span, pools, {"full": keys}, Limit(), lambda: None)  # type: ignore[arg-type]
    assert not arrived.errors
    assert arrived.num_full == (num_pages if lost is None else min(lost, num_pages))
    assert arrived.num_bytes == arrived.num_full * Page.nbytes
    assert asked == keys[: (arrived.num_full // num_batch_pages + 1) * num_batch_pages]


@pytest.mark.parametrize(("num_window", "asked"), [(2, []), (4, [0, 1])])
def test_of_a_window_no_page_is_read_that_has_no_full_page(num_window: int, asked: list) -> None:
    """Page 2 of 4 is lost. A window that reaches back to the anchor is of use up to there."""
    calls: dict[str, list[int]] = {"full": [], "swa": []}

    class Page(int):
        nbytes = 1

    class Store:
        def read_into(self, pool: str, keys: list[int], pages: list[Page], _: Limit) -> list[bool]:
            calls[pool] += keys
            return [(pool, key) != ("full", 2) for key in keys]

    pool = SimpleNamespace(page_view=Page, spec=SimpleNamespace(page_bytes=1))
    pools = SimpleNamespace(get=lambda tier, name: pool, sidecars_of=lambda name: [])
    keys, windows = [0, 1, 2, 3], {"swa": num_window}
    span = SimpleNamespace(
        keys=keys, window_pages=windows, has_whole_windows=num_window == len(keys)
    )
    held = {"full": keys, "swa": keys[-num_window:]}
    arrived = read_span(Store(), span, pools, held, Limit(), lambda: None)  # type: ignore[arg-type]
    assert calls == {"full": keys, "swa": asked}
    assert (arrived.num_full, arrived.num_window) == (2, {"swa": 2} if asked else {})


def test_an_abort_while_the_reads_stop() -> None:
    """The deadline has passed, the last batch is under way, and then the client leaves."""
    ranks = Ranks(2, make_io=ManualIo, prefetch=PrefetchRules(PrefetchPolicy.BEST_EFFORT))
    op_id = reading(ranks, make_tokens(6))
    assert ranks.each(lambda r: r.cache.poll(op_id)) == [False, False]
    ranks.tick()
    assert ranks[0].cache._prefetches[op_id].phase == Phase.STOP
    ranks[0].cache.abort(op_id)
    ranks.tick()
    assert num_in_io(ranks) == [(6, 3), (6, 3)]
    ranks.each(lambda r: r.io.run())
    assert [records[0].outcome for records in ranks.drain()] == [Outcome.ABORTED] * 2
    ranks.check_idle()
    ranks.close()


def test_an_abort_waits_for_the_reads_of_all_ranks() -> None:
    """Until the slowest rank's thread has let go, no rank gives its pages to anybody else."""
    ranks = Ranks(2, make_io=ManualIo)
    op_id = reading(ranks, make_tokens(6))
    ranks[0].cache.abort(op_id)
    for rank in (None, ranks[0]):
        if rank is not None:
            rank.io.run()
        for _ in range(3):
            assert ranks.tick() == [[], []]
            assert num_in_io(ranks) == [(6, 3), (6, 3)]
    ranks[1].io.run()
    assert ranks[1].store.stats()["num_read_pages"] == 0  # it heard of the abort in time
    assert [records[0].outcome for records in ranks.drain()] == [Outcome.ABORTED] * 2
    ranks.check_idle()
    ranks.close()


def num_in_io(ranks: Ranks) -> list[tuple[int, ...]]:
    pools = ranks.each(lambda r: r.host.values())
    return [tuple(p.allocator.counts()[PageState.IO] for p in mine) for mine in pools]


def test_an_abort_stops_the_reads_of_all_ranks_at_once() -> None:
    """It is said in the next tick, and not when this rank's own read comes back."""
    ranks = Ranks(2, make_io=ManualIo)
    tokens = make_tokens(4)
    fill_stores(ranks, tokens)
    ids = ranks.each(lambda r: r.cache.prefetch(tokens))
    ranks.tick()
    assert ranks[0].cache.abort(ids[0])
    for _ in range(3):
        ranks.tick()
    ops = ranks.each(lambda r: r.cache._prefetches[ids[0]])
    assert all(op.phase == Phase.DRAIN and op._io.stop.is_over for op in ops)
    ranks.each(lambda r: r.io.run())
    outcomes = [[record.outcome for record in mine] for mine in ranks.drain()]
    assert outcomes == [[Outcome.ABORTED]] * 2
    ranks.close()
