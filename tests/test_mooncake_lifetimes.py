"""MooncakeStore over an engine that hangs, and minds memory: who may free what, and when."""

import threading
import time
from collections.abc import Iterator

import pytest
from mooncake_fake import (
    GET,
    PAGE_BYTES,
    PUT,
    FakeEngine,
    client_of,
    get,
    install,
    key_of,
    page_of,
    put,
    slow_down,
)
from mooncake_tools import make_store
from waiting import PATIENCE_S, wait_for

from hicache_ext import HostBuffer
from hicache_ext.errors import LifetimeError, StorageError, StoreTimeout
from hicache_ext.storage import Limit, MooncakeClient, MooncakeStore
from hicache_ext.storage.breaker import CircuitBreaker
from hicache_ext.storage.mooncake_client import CHUNK_PAGES


@pytest.fixture
def engine(monkeypatch) -> FakeEngine:
    return install(monkeypatch)


@pytest.fixture
def client(engine: FakeEngine) -> Iterator[MooncakeClient]:
    yield from client_of(engine)


@pytest.fixture
def store(client: MooncakeClient) -> Iterator[MooncakeStore]:
    store = make_store(client)
    yield store
    store.close()


@pytest.mark.parametrize("call", [GET, PUT])
def test_pages_of_a_hanging_call_cannot_be_freed(
    store: MooncakeStore, engine: FakeEngine, call: str
) -> None:
    put(store, [1])
    gate = engine.held[call] = threading.Event()
    buffer = HostBuffer(2 * PAGE_BYTES)
    move = store.read_into if call == GET else store.write_from
    key = key_of(1 if call == GET else 2)
    begin_s = time.monotonic()
    with pytest.raises(StoreTimeout, match=r"master:1: no return after") as caught:
        move("full", [key], [buffer.view()[:PAGE_BYTES]])
    assert time.monotonic() - begin_s < PATIENCE_S
    error = caught.value.with_traceback(None)  # the frames of the test hold the view, too
    del caught
    assert not error.wait(0.01)
    with pytest.raises(LifetimeError):
        buffer.close()
    gate.set()
    assert error.wait(PATIENCE_S)
    assert bytes(buffer.view()[:PAGE_BYTES]) == (page_of(1) if call == GET else bytes(PAGE_BYTES))
    buffer.close()
    assert store.stats()["num_late_calls"] == 1


def test_an_engine_that_hangs_opens_the_breaker(store: MooncakeStore, engine: FakeEngine) -> None:
    put(store, [1])
    engine.held[GET] = threading.Event()
    for _ in range(2):
        with pytest.raises(StoreTimeout):
            get(store, [1])
    assert store.stats()["is_open"] == 1
    assert get(store, [1]) == [None]
    assert engine.calls[GET] == 2


def test_large_batches_on_two_lanes_do_not_wait_for_each_other(engine: FakeEngine) -> None:
    """Each has one lane and would like a second one."""
    client = MooncakeClient("master:1", num_lanes=2)
    store, numbers = make_store(client), range(8 * CHUNK_PAGES)
    put(store, numbers)
    slow_down(engine, 0.01)
    start, found = threading.Barrier(2), []

    def read() -> None:
        start.wait()
        found.append(get(store, numbers, Limit(20.0)))

    threads = [threading.Thread(target=read) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [[page_of(n) for n in numbers]] * 2
    client.close()


def test_moves_take_turns(client: MooncakeClient, engine: FakeEngine) -> None:
    client.call_timeout_s = 60.0
    store = make_store(client)
    put(store, range(2))
    client.moves = threading.Semaphore(1)
    engine.held[GET] = threading.Event()
    found = []
    other = threading.Thread(target=lambda: found.append(get(store, [0])))
    other.start()
    wait_for(lambda: engine.calls[GET])
    assert get(store, [1], Limit(0.1)) == [None]  # it holds no pages: no error
    assert engine.calls[GET] == 1
    assert store.exists("full", [key_of(1)]) == [True]  # which is no move
    engine.held[GET].set()
    other.join()
    assert found == [[page_of(0)]]


def test_what_came_before_the_turn_that_never_came_is_delivered(
    client: MooncakeClient, engine: FakeEngine
) -> None:
    store, numbers = make_store(client), range(2 * CHUNK_PAGES)
    put(store, numbers)
    limit = Limit()

    class OneTurn(threading.Semaphore):
        """Nobody gives it back, and who asks again is out of time."""

        def acquire(self, blocking: bool = True, timeout: float | None = None) -> bool:
            if not (is_mine := super().acquire(timeout=timeout)):
                limit.cancel()
            return is_mine

        def release(self, n: int = 1) -> None:
            pass

    client.moves = OneTurn(1)
    found = get(store, numbers, limit)
    assert found == [page_of(n) for n in numbers[:CHUNK_PAGES]] + [None] * CHUNK_PAGES


def test_the_callers_limit_comes_first(client: MooncakeClient, engine: FakeEngine) -> None:
    client.call_timeout_s = 60.0
    store = make_store(client, breaker=CircuitBreaker(num_failures=3))
    put(store, [1])
    for limit in (Limit(0), Limit()):
        limit.cancel()
        assert get(store, [1], limit) == [None] and put(store, [2], limit) == [False]
    assert len(engine.objects) == 1
    engine.held[GET] = threading.Event()
    begin_s = time.monotonic()
    for limit in (Limit(1.0), Limit()):
        if limit.remaining_s() is None:
            engine.cancels[GET] = limit
        with pytest.raises(StoreTimeout):
            get(store, [1], limit)
    assert store.stats()["is_open"] == 0
    engine.held["batch_is_exist"] = threading.Event()
    limit = engine.cancels["batch_is_exist"] = Limit()
    assert store.exists("full", [key_of(1)], limit) == [False]  # no pages: no error
    assert time.monotonic() - begin_s < PATIENCE_S
    assert store.stats()["is_open"] == 1


class Nearly(Limit):
    """Over in 10 ms, until it is cancelled."""

    def remaining_s(self) -> float:
        return 0.0 if self._cancelled.is_set() else 0.01


def test_the_less_time_is_left_the_smaller_the_calls(
    store: MooncakeStore, engine: FakeEngine
) -> None:
    """So a call that is in flight when the limit is over can still return."""
    numbers = range(CHUNK_PAGES)
    put(store, numbers)
    engine.calls.clear()
    assert get(store, numbers, Limit(20.0)) == [page_of(n) for n in numbers]
    assert engine.calls[GET] == 1
    limit = Nearly()
    get_at_once = engine.batch_get_into_multi_buffers

    def get_and_cancel(*args: object) -> list[int]:
        codes = get_at_once(*args)
        limit.cancel()
        return codes

    engine.batch_get_into_multi_buffers = get_and_cancel
    found = get(store, numbers, limit)  # at 50 MB/s not all of them
    assert found[0] == page_of(0) and found[-1] is None


def test_when_every_lane_hangs_calls_end_all_the_same(
    client: MooncakeClient, engine: FakeEngine
) -> None:
    store = make_store(client, breaker=CircuitBreaker(num_failures=100))
    put(store, [1])
    engine.held[GET] = threading.Event()
    errors = []
    for _ in range(4):
        limit = engine.cancels[GET] = Limit()
        with pytest.raises(StoreTimeout) as caught:
            get(store, [1], limit)
        errors.append(caught.value)
    assert get(store, [1]) == [None]
    assert "every call hangs" in store.last_error
    engine.held[GET].set()
    assert all(error.wait(PATIENCE_S) for error in errors)
    assert get(store, [1]) == [page_of(1)]


def test_no_address_that_is_not_registered(client: MooncakeClient, engine: FakeEngine) -> None:
    """`violations` is looked at by the fixture."""
    store = make_store(client)
    pool = HostBuffer(9 * PAGE_BYTES)
    client.memory.add(pool.view()[PAGE_BYTES:-PAGE_BYTES])
    inside = [pool.view()[n * PAGE_BYTES : (n + 1) * PAGE_BYTES] for n in range(1, 8)]
    for number, page in enumerate(inside):
        page[:] = page_of(number)
    keys = [key_of(n) for n in range(7)]
    assert all(store.write_from("full", keys, inside))
    assert all(store.read_into("full", keys, inside))
    assert client.memory.num_passing == 0
    before = pool.view()[:PAGE_BYTES]  # ends where the registered part begins
    assert store.read_into("full", [key_of(0)], [before]) == [True]
    assert (bytes(before), client.memory.num_passing) == (page_of(0), 1)
    elsewhere = memoryview(bytearray(PAGE_BYTES))
    for start in (PAGE_BYTES - 8, 7 * PAGE_BYTES + 8):  # half inside
        partly = pool.view()[start : start + PAGE_BYTES]
        with pytest.raises(StorageError, match="overlap with other registered memory"):
            store.read_into("full", keys[:2], [elsewhere, partly])
    assert get(store, range(7)) == [page_of(n) for n in range(7)]


def test_threads_that_move_the_same_page_share_its_registration(
    store: MooncakeStore, engine: FakeEngine
) -> None:
    put(store, range(3))
    page, num_right = memoryview(page_of(5)), []

    def write(seed: int) -> None:
        for i in range(0, 60, 2):
            keys = [key_of(1000 * seed + i), key_of(1000 * seed + i + 1)]
            num_right.append(sum(store.write_from("full", keys, [page] * 2)))

    threads = [threading.Thread(target=write, args=(seed,)) for seed in range(1, 5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert num_right == [2] * 120
    assert len(engine.ranges) == 1  # the trailers


def test_registered_memory_is_not_freed_until_it_is_removed(client: MooncakeClient) -> None:
    buffer = HostBuffer(PAGE_BYTES)
    client.memory.add(buffer.view())
    with pytest.raises(StorageError, match=f"did not register {PAGE_BYTES} bytes"):
        client.memory.add(buffer.view())
    with pytest.raises(LifetimeError):
        buffer.close()
    client.memory.remove(buffer.view())
    with pytest.raises(StorageError, match="is not registered"):
        client.memory.remove(buffer.view())
    buffer.close()
    for bad in (memoryview(b""), memoryview(bytearray(8))[::2]):
        with pytest.raises(StorageError, match="cannot register"):
            client.memory.add(bad)


def test_close_waits_for_the_engine_and_says_if_it_hangs(engine: FakeEngine) -> None:
    client = MooncakeClient("master:1", num_lanes=2, call_timeout_s=0.05)
    store = make_store(client)
    gate = engine.held["batch_is_exist"] = threading.Event()
    assert store.exists("full", [key_of(1)]) == [False]
    store.close()
    with pytest.raises(StorageError, match="master:1: a call hangs"):
        client.close(0.05)
    assert not engine.is_closed
    gate.set()
