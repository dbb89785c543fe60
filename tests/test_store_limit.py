"""Limits of store calls, and what becomes of pages that a store cannot give back in time."""

import threading
import time
from concurrent.futures import Future

import pytest

from hicache_ext.errors import StorageError, StoreTimeout
from hicache_ext.flow.io import InlineIo, ThreadIo, start
from hicache_ext.storage import FaultyStore, Limit, MemoryStore

KEYS = [bytes([i]) * 32 for i in range(3)]


def make_store(**faults: float) -> FaultyStore:
    store = FaultyStore(MemoryStore({"full": 8}))
    store.write_from("full", KEYS, [memoryview(b"12345678")] * 3)
    store.faults.delay_s = faults.get("delay_s", 0.0)
    return store


def test_a_limit_runs_out() -> None:
    assert Limit().remaining_s() is None and not Limit().is_over
    assert Limit(0).is_over and Limit(-1).remaining_s() == 0
    limit = Limit(60)
    assert not limit.is_over and 59 < (limit.remaining_s() or 0) <= 60
    limit.cancel()
    assert limit.is_over and limit.remaining_s() == 0


def test_cancel_ends_a_sleep() -> None:
    limit = Limit()
    threading.Timer(0.02, limit.cancel).start()
    begin = time.monotonic()
    limit.sleep(60)
    assert time.monotonic() - begin < 30


def test_a_slow_store_returns_at_its_deadline() -> None:
    store = make_store(delay_s=60.0)
    buffers = [bytearray(b"\xa5" * 8) for _ in KEYS]
    begin = time.monotonic()
    pages = [memoryview(b) for b in buffers]
    assert store.read_into("full", KEYS, pages, Limit(0.02)) == [False] * 3
    assert time.monotonic() - begin < 30
    assert buffers == [b"\xa5" * 8] * 3


class HeldStore:
    """The engine lets go of the buffers when the test says so."""

    def __init__(self) -> None:
        self.let_go = threading.Event()

    def read(self) -> list[bool]:
        raise StoreTimeout("read overran 0.1 s", self.let_go.wait)


def test_a_timeout_says_when_its_pages_are_free() -> None:
    store = HeldStore()
    with pytest.raises(StoreTimeout, match=r"overran 0\.1 s") as caught:
        store.read()
    assert isinstance(caught.value, StorageError)
    assert not caught.value.wait(0.001)
    store.let_go.set()
    assert caught.value.wait()


def test_a_call_of_the_flows_is_over_when_its_pages_are_free() -> None:
    store, io = HeldStore(), ThreadIo(1)
    future: Future[list[bool]] = start(io, store.read)
    time.sleep(0.02)
    assert not future.done()
    store.let_go.set()
    assert isinstance(future.exception(10), StoreTimeout)
    io.close()
    assert isinstance(start(InlineIo(), store.read).exception(), StoreTimeout)
