"""Time and connections of a RedisStore: limits, the breaker, servers that come and go."""

import random
import threading
import time

import pytest
from redis_faults import NUMBERS, good_server, good_store, open_store, spoil
from resp_server import RespServer
from store_backends import NAMESPACES, PAGE_BYTES, get, key_of, page_of, put
from waiting import LONG_S, PATIENCE_S, Clock

from hicache_ext.errors import StorageError
from hicache_ext.storage import Limit, RedisServer, RedisStore
from hicache_ext.storage.breaker import CircuitBreaker

server, store = good_server, good_store


def test_silence_ends_at_the_limit_and_no_buffer_is_touched_after(server) -> None:
    store = open_store(server, timeout_s=LONG_S)
    assert all(put(store, NUMBERS))
    go_on = threading.Event()

    def silent(words: list[bytes]) -> bytes | None:
        if words[0] == b"GET":
            go_on.wait(LONG_S)
        return server.answer(words)

    server.script = silent
    buffer = bytearray(b"\xa5" * PAGE_BYTES["full"])
    begin = time.monotonic()
    found = store.read_into("full", [key_of(0)], [memoryview(buffer)], Limit(0.1))
    assert found == [False] and 0.1 <= time.monotonic() - begin < PATIENCE_S
    go_on.set()  # the answer comes now
    assert get(store, [1]) == [page_of(1)]
    assert buffer == b"\xa5" * PAGE_BYTES["full"]
    assert store.stats()["num_late_calls"] == 1 and store.stats()["num_failed_calls"] == 0
    store.close()


def test_a_buffer_cannot_be_freed_while_its_page_is_on_its_way(server) -> None:
    store = open_store(server, timeout_s=LONG_S)
    assert all(put(store, NUMBERS))
    buffer, asked, go_on = bytearray(PAGE_BYTES["full"]), threading.Event(), threading.Event()

    def late(words: list[bytes]) -> bytes | None:
        if words[0] == b"GET":
            asked.set()
            go_on.wait(LONG_S)
        return server.answer(words)

    server.script = late
    found: list[bool] = []
    view = memoryview(buffer)
    call = threading.Thread(
        target=lambda: found.extend(store.read_into("full", [key_of(0)], [view]))
    )
    call.start()
    assert asked.wait(LONG_S)
    view.release()  # the caller's own; the call has another
    with pytest.raises(BufferError):
        buffer.clear()
    go_on.set()
    call.join(LONG_S)
    assert found == [True] and buffer == page_of(0)
    buffer.clear()
    store.close()


def test_cancel_ends_a_call_that_waits(server) -> None:
    store, limit = open_store(server, timeout_s=LONG_S), Limit()
    server.script = lambda words: limit.cancel() or b""  # type: ignore[func-returns-value]
    begin = time.monotonic()
    assert store.exists("full", [key_of(0)], limit) == [False]
    assert time.monotonic() - begin < PATIENCE_S
    assert store.exists("full", [key_of(0)], limit) == [False]  # and is over for good
    store.close()


@pytest.mark.parametrize("is_cancelled", [True, False])
def test_a_server_that_does_not_read_ends_a_write_at_its_limit(server, is_cancelled: bool) -> None:
    """What the sockets do not take waits in the kernel."""
    store, go_on = open_store(server, timeout_s=LONG_S), threading.Event()
    limit = Limit() if is_cancelled else Limit(0.3)

    def reads_no_more(words: list[bytes]) -> bytes:
        limit.cancel() if is_cancelled else None
        go_on.wait(LONG_S)
        return b""

    server.script = reads_no_more
    page = memoryview(bytes(PAGE_BYTES["full"]))
    keys = [key_of(n) for n in range((32 << 20) // page.nbytes)]
    begin = time.monotonic()
    assert store.write_from("full", keys, [page] * len(keys), limit) == [False] * len(keys)
    assert time.monotonic() - begin < PATIENCE_S and store.stats()["num_late_calls"] == 1
    go_on.set()
    store.close()


def test_what_came_in_time_is_kept(server, store: RedisStore) -> None:
    spoil(server, 2, lambda right: right[:1000])
    buffers = [bytearray(PAGE_BYTES["full"]) for _ in NUMBERS]
    pages = [memoryview(b) for b in buffers]
    found = store.read_into("full", [key_of(n) for n in NUMBERS], pages, Limit(1.5))
    assert found == [True, True, False, False]
    assert buffers[:2] == [page_of(0), page_of(1)]


def test_bytes_one_by_one_are_put_together(server, store: RedisStore) -> None:
    rng = random.Random(3)
    server.script = lambda words: b""
    links = []

    def trickle(words: list[bytes]) -> bytes:
        links.extend(server._open[-1:])
        data, sock = server.answer(words), server._open[-1]
        while data:
            num_bytes = rng.choice([1, 2, 3, 17, 1000, 4096])
            sock.sendall(data[:num_bytes])
            data = data[num_bytes:]
        return b""

    server.script = trickle
    assert get(store, [0, 9, 1, 2]) == [page_of(0), None, page_of(1), page_of(2)]
    assert links


def test_the_stores_own_timeout_opens_the_breaker(server) -> None:
    clock = Clock()
    breaker = CircuitBreaker(num_failures=2, open_s=5.0, clock=clock)
    store = open_store(server, timeout_s=PATIENCE_S, breaker=breaker)
    put(store, [0])
    store._timeout_s = 0.1
    server.script = lambda words: b""
    for _ in range(2):
        assert get(store, [0]) == [None]
    assert "0.1 s" in store.last_error
    assert get(store, [0]) == [None] and put(store, [1]) == [False]  # nobody waits any more
    assert store.stats()["num_skipped_calls"] == 2 and store.stats()["is_open"] == 1
    server.script, store._timeout_s = None, PATIENCE_S
    clock.now_s += 5.0
    assert get(store, [0]) == [page_of(0)]
    assert store.stats()["is_open"] == 0
    store.close()


def test_a_connection_that_went_away_between_calls_costs_nothing(server, store) -> None:
    server.hang_up()
    time.sleep(0.05)
    assert get(store, NUMBERS) == [page_of(n) for n in NUMBERS]
    assert store.stats()["num_failed_calls"] == 0


def test_connections_are_few_and_shared(server) -> None:
    store = open_store(server, num_links=2)
    put(store, NUMBERS)
    before, gate = server.num_links, threading.Barrier(6)
    wrong = []

    def reader() -> None:
        gate.wait()
        for _ in range(5):
            if get(store, NUMBERS) != [page_of(n) for n in NUMBERS]:
                wrong.append(1)

    threads = [threading.Thread(target=reader) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong and server.num_links <= before + 1
    asked = threading.Semaphore(0)
    server.script = lambda words: asked.release() or b""  # type: ignore[func-returns-value]
    busy = [threading.Thread(target=get, args=(store, [0])) for _ in range(2)]
    for thread in busy:
        thread.start()
        assert asked.acquire(timeout=PATIENCE_S)
    assert store.exists("full", [key_of(0)], Limit(0.05)) == [False]  # none comes free
    server.hang_up()
    for thread in busy:
        thread.join()
    store.close()


def test_down_at_open_is_a_typed_error() -> None:
    with RespServer() as server:
        address = server.address
    for where in (address, RedisServer(unix_path="/nowhere/redis.sock")):
        with pytest.raises(StorageError, match="open: connect:"):
            RedisStore(where, NAMESPACES, PAGE_BYTES)


def test_a_server_that_accepts_and_says_nothing_at_open() -> None:
    with RespServer(lambda words: b"") as server, pytest.raises(StorageError, match="within"):
        open_store(server, connect_timeout_s=0.1)


@pytest.mark.parametrize("text", ["LOADING not yet", "MOVED 1 127.0.0.1:1", "NOPERM no"])
def test_a_server_that_does_not_answer_about_our_keys_at_open(text: str) -> None:
    def script(words: list[bytes]) -> bytes:
        return b"+PONG\r\n" if words[0] == b"PING" else f"-{text}\r\n".encode()

    with RespServer(script) as server, pytest.raises(StorageError, match=text):
        open_store(server)
