"""A store that is slower than the backups: what it cannot take is dropped, with a reason."""

from __future__ import annotations

import pytest
from manual_io import ManualIo
from ranks import Ranks
from spans import prefill

from hicache_ext.config import CacheConfig
from hicache_ext.errors import LayoutError
from hicache_ext.flow.record import BackupRecord, Drop, Outcome
from hicache_ext.tier import Tier


def back_up(ranks: Ranks, start: int) -> None:
    """Two new pages, as far as the store."""
    ranks.each(lambda r: r.cache.release(prefill(r, 2, start)))
    for _ in range(4):
        ranks.tick()


def test_a_store_that_hangs_gets_no_more_than_so_many_backups() -> None:
    """Further ones end at the host, on every rank, and their host pages can be evicted."""
    ranks = Ranks(2, make_io=ManualIo, max_store_writes=2)
    for start in (0, 1000, 2000, 3000):
        back_up(ranks, start)
    assert ranks[0].cache.num_in_flight == 2
    for rank in ranks:
        assert rank.cache.stats.num_dropped_pages == {"store_busy": 8}
        rank.cache.evict(Tier.DEVICE, {"full": 100, "swa": 100})
        rank.cache.evict(Tier.HOST, {"full": 100, "swa": 100})
    held = [r.cache.pools.sizes(Tier.HOST)[0] - r.cache.pools.num_free()[2] for r in ranks]
    assert held == [4, 4]  # of the two that the store still reads
    ranks.each(lambda r: r.io.run())
    for records in ranks.drain():
        assert [r.num_stored_pages["full"] for r in records] == [2, 2]
    back_up(ranks, 4000)  # there is room again
    assert ranks.each(lambda r: r.io.run()) == [1, 1]
    for (record,) in ranks.drain():
        assert isinstance(record, BackupRecord) and not record.num_dropped_pages
    ranks.check_idle()
    ranks.close()


def test_pages_that_the_store_refuses_are_counted_by_the_rank_that_lost_them() -> None:
    ranks = Ranks(2)
    ranks[1].store.faults.write_rate = 1.0
    ranks.each(lambda r: r.cache.release(prefill(r, 2)))
    (mine,), (other,) = ranks.drain()
    assert mine.outcome == other.outcome == Outcome.COMMITTED
    assert mine.num_dropped_pages == {} and mine.num_stored_pages == {"full": 2, "swa": 2}
    assert other.num_dropped_pages == {Drop.NOT_WRITTEN: 4}
    assert ranks[1].cache.stats.num_dropped_pages == {"not_written": 4}
    ranks.close()


def test_pages_of_a_write_that_raised_are_counted() -> None:
    ranks = Ranks(1)
    ranks[0].store.faults.raising = {"write_from"}
    ranks.each(lambda r: r.cache.release(prefill(r, 2)))
    ((record,),) = ranks.drain()
    assert record.num_dropped_pages == {Drop.NOT_WRITTEN: 4} and record.local_errors
    ranks.close()


def test_no_write_at_all_is_no_configuration() -> None:
    with pytest.raises(LayoutError, match="max_store_writes=0 must be positive"):
        CacheConfig(page_size=16, max_store_writes=0)
