"""Store calls that cannot be started or are cancelled: a miss on every rank, no page is lost."""

from __future__ import annotations

import threading
from concurrent.futures import Future, ThreadPoolExecutor

import pytest
from ranks import Rank, Ranks
from spans import fill_stores, make_tokens, prefill

from hicache_ext.agreement.local import LocalGroup
from hicache_ext.flow.io import InlineIo, ThreadIo, settle, wait
from hicache_ext.flow.prefetch import PrefetchOp
from hicache_ext.flow.record import Outcome


class NoThreadLeft(InlineIo):
    """Its call number `last` cannot be started."""

    last = -1
    num_calls = 0

    def submit(self, call):
        self.num_calls += 1
        if self.num_calls == self.last:
            raise RuntimeError("no thread is left")
        return super().submit(call)


@pytest.mark.parametrize(("last", "outcome"), [(1, Outcome.MISS), (2, Outcome.DROPPED)])
def test_a_call_that_one_rank_cannot_start_is_a_miss_of_all(last: int, outcome: Outcome) -> None:
    """It was an exception in that rank's tick, whose pages were then never given back."""
    ranks = Ranks(2, make_io=NoThreadLeft)
    tokens = make_tokens(4)
    fill_stores(ranks, tokens)
    ranks[1].io.last = last
    ranks.each(lambda r: r.cache.prefetch(tokens))
    records = [mine[0] for mine in ranks.drain()]
    assert [record.outcome for record in records] == [outcome] * 2
    assert "no thread is left" in str(records[1].local_errors) and not records[0].local_errors
    ranks.check_idle()
    ranks.close()


def test_a_backup_that_cannot_be_written_is_a_later_miss() -> None:
    ranks = Ranks(2, make_io=NoThreadLeft)
    ranks[1].io.last = 1
    for rank in ranks:
        rank.cache.release(prefill(rank, 4))
    records = [mine[0] for mine in ranks.drain()]
    assert [record.outcome for record in records] == [Outcome.COMMITTED] * 2
    assert records[1].num_stored_pages == {} != records[0].num_stored_pages
    ranks.check_idle()
    ranks.close()


def test_threads_are_there_before_the_first_call(monkeypatch: pytest.MonkeyPatch) -> None:
    io = ThreadIo(3)
    monkeypatch.setattr(threading.Thread, "start", lambda _: pytest.fail("a thread is started"))
    assert [io.submit(lambda i=i: i).result(20) for i in range(8)] == list(range(8))
    io.close()


def test_a_call_that_is_cancelled_has_failed() -> None:
    future: Future[int] = Future()
    assert future.cancel()
    assert settle(future, 5, "read") == (5, "read failed: CancelledError()")
    wait(future)
    with ThreadPoolExecutor(1) as pool:
        wait(pool.submit(int, "x"))


def test_an_op_that_cannot_be_cancelled_keeps_no_page_of_the_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rank = Rank(0, LocalGroup())
    ops = [rank.cache.prefetch(make_tokens(4, start=500 * i)) for i in range(3)]
    rank.cache.release(prefill(rank, 2, 5000))
    rank.cache.publish()
    cancel, cancelled = PrefetchOp.cancel, []

    def watched(op: PrefetchOp) -> None:
        cancelled.append(op.op_id)
        cancel(op)
        if op.op_id == ops[1]:
            raise ValueError("of one op")

    monkeypatch.setattr(PrefetchOp, "cancel", watched)
    with pytest.raises(ValueError, match="of one op"):
        rank.cache.close()
    assert cancelled == ops[::-1]
    rank.close()


def test_who_is_given_up_loses_its_thread_to_another() -> None:
    """Two threads, two calls that hang: nothing else ran any more."""
    io, go_on = ThreadIo(2, max_hung=2), threading.Event()
    hung = [io.submit(go_on.wait) for _ in range(4)]
    waits = [io.submit(lambda: 7), io.submit(lambda: int("x"))]
    for _ in range(2):  # twice is no more
        for call in hung:
            io.give_up(call)
    assert len(io._hung) == 2 and not any(call.done() for call in (*hung, *waits))
    go_on.set()
    assert waits[0].result(30) == 7
    with pytest.raises(ValueError, match="'x'"):
        waits[1].result(30)
    io.close()
    assert (io._num_free, io._hung, io._running) == (2, set(), set())
    with pytest.raises(RuntimeError, match="shut down"):
        io.submit(go_on.wait)


def test_calls_in_line_run_beside_one_that_hangs() -> None:
    io, go_on = ThreadIo(1, max_hung=1), threading.Event()
    hung = io.submit(go_on.wait)
    behind = io.submit(lambda: 7)
    io.give_up(behind)  # which does not run
    io.give_up(hung)
    assert behind.result(30) == 7 and not hung.done()
    assert io.submit(lambda: 8).result(30) == 8
    go_on.set()
    io.close()
    assert hung.result(0)
