"""Attach and detach of the store under ops in flight: on all ranks or on none."""

from __future__ import annotations

import pytest
from manual_io import ManualIo
from ranks import PAGE_SIZE, Rank, Ranks, make_pools
from spans import fill_stores, hit_pages, make_tokens, prefetch, prefill

from hicache_ext.agreement.local import LocalGroup
from hicache_ext.cache import HiCache
from hicache_ext.config import CacheConfig
from hicache_ext.errors import AgreementError, LayoutError, StorageError
from hicache_ext.flow.record import Outcome, StoreAction, StoreRecord
from hicache_ext.layout import LayoutSpec
from hicache_ext.pool import HostPool


def switch_off(ranks: Ranks) -> None:
    ranks.each(lambda r: r.cache.detach_store())
    for records in ranks.drain():
        assert records[-1].outcome == Outcome.COMMITTED


def test_a_store_that_is_detached_is_asked_and_written_no_more() -> None:
    ranks = Ranks(2)
    tokens = make_tokens(6)
    fill_stores(ranks, tokens)
    switch_off(ranks)
    before = ranks[0].store.stats()
    assert ranks.each(lambda r: r.cache.prefetch(tokens)) == [None, None]
    ranks.each(lambda r: r.cache.release(prefill(r, 2)))
    ranks.drain()
    assert ranks[0].store.stats() == before
    ranks.close()


def test_a_store_that_is_attached_is_asked_once_the_tick_says_so() -> None:
    ranks = Ranks(2)
    tokens = make_tokens(6)
    fill_stores(ranks, tokens)
    switch_off(ranks)
    op_ids = ranks.each(lambda r: r.cache.attach_store(r.store))
    assert ranks.each(lambda r: r.cache.prefetch(tokens)) == [None, None]  # not yet
    for records in ranks.drain():
        assert records == [StoreRecord(op_ids[0], StoreAction.ATTACH, Outcome.COMMITTED)]
    assert [r.outcome for r in prefetch(ranks, tokens)] == [Outcome.COMMITTED] * 2
    assert hit_pages(ranks, tokens) == 6
    ranks.close()


def test_what_is_in_flight_settles_first_and_what_comes_later_waits() -> None:
    """The prefetch still reads from the old store; the load-back starts when it is detached."""
    ranks = Ranks(2, make_io=ManualIo)
    tokens = make_tokens(6)
    fill_stores(ranks, tokens)
    first = ranks.each(lambda r: r.cache.prefetch(tokens))[0]
    ranks.tick()
    switch = ranks.each(lambda r: r.cache.detach_store())[0]
    matches = ranks.each(lambda r: prefill(r, 2, start=1000))  # its backup comes behind the switch
    for _ in range(5):
        assert ranks.tick() == [[], []]
    ended: list[int] = []
    while ranks[0].cache.num_in_flight:
        ranks.each(lambda r: r.io.run())
        ended += [record.op_id for record in ranks.tick()[0]]
    assert ended[:2] == [first, switch] and len(ended) == 3
    assert ranks[0].store.stats()["num_written_pages"] == 12  # fill_stores alone
    for rank, match in zip(ranks, matches, strict=True):
        rank.cache.release(match)
    assert hit_pages(ranks, tokens) == 6
    ranks.close()


def test_what_was_inserted_before_a_detach_is_written_to_the_store() -> None:
    """Those that had not begun came behind the switch, once."""
    ranks = Ranks(2)
    for start in (0, 1000, 2000):
        ranks.each(lambda r, start=start: r.cache.release(prefill(r, 2, start)))
    switch = ranks.each(lambda r: r.cache.detach_store())[0]
    ranks.each(lambda r: r.cache.release(prefill(r, 2, 3000)))
    for records in ranks.drain():
        *before, detach, after = records
        assert detach.op_id == switch and detach.outcome == Outcome.COMMITTED
        assert [r.num_stored_pages for r in before] == [{"full": 6, "swa": 6}]
        assert after.num_stored_pages == {}
    ranks.check_idle()
    ranks.close()


def test_close_under_a_switch_that_waits_for_backups() -> None:
    rank = Rank(0, LocalGroup())
    rank.cache.release(prefill(rank, 2))
    rank.cache.detach_store()
    rank.cache.close()
    rank.check_ledger()
    rank.close()


def test_a_rank_without_a_store_to_attach_keeps_the_others_from_it() -> None:
    ranks = Ranks(2)
    switch_off(ranks)
    ranks.each(lambda r: r.cache.attach_store(None if r.rank else r.store))
    assert [records[0].outcome for records in ranks.drain()] == [Outcome.FAILED] * 2
    assert ranks.each(lambda r: r.cache.prefetch(make_tokens(6))) == [None, None]
    ranks.each(lambda r: r.cache.attach_store(r.store))
    assert [records[0].outcome for records in ranks.drain()] == [Outcome.COMMITTED] * 2
    ranks.close()


def test_a_rank_that_switches_alone_is_detected() -> None:
    """Hazard H5 of the history: a rank-asymmetric attach hung, or corrupted."""
    ranks = Ranks(2)
    ranks[1].cache.detach_store()
    with pytest.raises(AgreementError):
        for _ in range(3):
            ranks.tick()
    ranks.close()


def test_switches_that_make_no_sense() -> None:
    rank = Rank(0, LocalGroup())
    with pytest.raises(StorageError, match="attach_store: a store is attached"):
        rank.cache.attach_store(rank.store)
    rank.cache.detach_store()
    with pytest.raises(StorageError, match="another attach, detach or clear is in flight"):
        rank.cache.attach_store(rank.store)
    rank.cache.drain()
    with pytest.raises(StorageError, match="detach_store: no store is attached"):
        rank.cache.detach_store()
    rank.close()


def test_pools_whose_pages_no_store_can_read() -> None:
    device, _ = make_pools(4, 4)
    host = {name: HostPool(_layer_first(pool.spec), name=name) for name, pool in device.items()}
    cache = HiCache(CacheConfig(page_size=PAGE_SIZE, window_tokens=10), device, host)
    rank = Rank(0, LocalGroup())
    with pytest.raises(LayoutError, match="host pool full has layout layer_first"):
        cache.attach_store(rank.store)
    cache.close(), rank.close()


def _layer_first(spec: LayoutSpec) -> LayoutSpec:
    return LayoutSpec.make(
        "layer_first",
        num_pages=spec.num_pages,
        page_size=spec.page_size,
        num_layers=spec.num_layers,
        num_heads=spec.num_heads,
        head_bytes=spec.head_bytes,
    )


def test_close_under_a_switch_leaves_nothing() -> None:
    ranks = Ranks(2, make_io=ManualIo)
    tokens = make_tokens(6)
    fill_stores(ranks, tokens)
    ranks.each(lambda r: r.cache.prefetch(tokens))
    ranks.tick()
    ranks.each(lambda r: r.cache.detach_store())
    ranks.tick()
    ranks.each(lambda r: r.cache.close())
    ranks.check_idle()
    ranks.close()


def test_a_clear_forgets_what_the_store_has_on_every_rank() -> None:
    ranks = Ranks(2, make_io=ManualIo)
    tokens = make_tokens(6)
    fill_stores(ranks, tokens)
    op_id = ranks.each(lambda r: r.cache.clear_store())[0]
    assert ranks.each(lambda r: r.cache.prefetch(tokens)) == [None, None]  # would find what goes
    ranks.tick(), ranks.tick()
    ranks[0].io.run()
    for _ in range(4):
        assert ranks.tick() == [[], []]  # until the other has cleared its own
    ranks[1].io.run()
    for records in ranks.drain():
        assert records == [StoreRecord(op_id, StoreAction.CLEAR, Outcome.COMMITTED)]
    assert [r.store.stats()["num_pages"] for r in ranks] == [0, 0]
    ranks.each(lambda r: r.cache.release(prefill(r, 2)))  # the store is there as before
    op_ids = ranks.each(lambda r: r.cache.prefetch(tokens))
    assert op_ids[0] is not None and op_ids[0] == op_ids[1]
    while ranks[0].cache.num_in_flight:
        ranks.each(lambda r: r.io.run())
        ranks.tick()
    assert [r.store.stats()["num_pages"] for r in ranks] == [4, 4]
    ranks.close()


def test_a_rank_that_cannot_clear_fails_it_on_all_once_all_have_ended() -> None:
    ranks = Ranks(2, make_io=ManualIo)
    ranks[1].store.faults.raising = {"clear"}
    ranks.each(lambda r: r.cache.clear_store())
    ranks.tick(), ranks.tick()
    ranks[1].io.run()
    for _ in range(4):
        assert ranks.tick() == [[], []]  # rank 0 still clears
    ranks[0].io.run()
    mine, other = (records[0] for records in ranks.drain())
    assert mine.outcome == other.outcome == Outcome.FAILED
    assert mine.local_errors == [] and "told to fail" in other.local_errors[0]
    with pytest.raises(StorageError, match="detach or clear is in flight"):
        ranks.each(lambda r: (r.cache.clear_store(), r.cache.clear_store()))
    ranks.each(lambda r: r.cache.close())
    ranks.close()


def test_close_under_a_clear_waits_for_it() -> None:
    rank = Rank(0, LocalGroup(), io=ManualIo())
    fill_stores([rank], make_tokens(6))
    rank.cache.clear_store()
    rank.cache.tick()
    rank.cache.close()
    assert rank.store.stats()["num_pages"] == 0
    rank.close()
