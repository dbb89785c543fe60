"""An object store that is down, slow, dies in a batch or refuses: a miss, and it stays usable."""

import os
import random
import signal
import threading
import time
from contextlib import closing

import pytest
from net_servers import rclone_s3, shared_s3
from s3_door import S3Door
from store_backends import NAMESPACES, PAGE_BYTES, get, key_of, open_bucket, page_of, put
from waiting import LONG_S, PATIENCE_S, Clock, wait_for

from hicache_ext.errors import StorageError
from hicache_ext.storage import Limit, ObjectStore
from hicache_ext.storage.breaker import CircuitBreaker
from hicache_ext.storage.remote_call import EngineError

PER_OBJECT = 4


def open_store(bucket, prefix: str, **options) -> ObjectStore:
    options = {"object_bytes": PER_OBJECT * PAGE_BYTES["full"], "refresh_s": 0.0} | options
    return ObjectStore(bucket, NAMESPACES, PAGE_BYTES, prefix=prefix, **options)


@pytest.fixture
def prefix(tmp_path) -> str:
    return tmp_path.name


@pytest.fixture
def door():
    with closing(S3Door(shared_s3().port)) as made:
        yield made


def test_a_chunk_that_is_refused_is_told_and_the_others_are_stored(door, prefix) -> None:
    third_is_here = threading.Event()  # else it may not be sent any more

    def refuse_the_second(method: str, path: str) -> int | None:
        if path.endswith("/00000002"):
            third_is_here.set()
        if path.endswith("/00000001"):
            third_is_here.wait(PATIENCE_S)
            return 403
        return None

    door.refuse = refuse_the_second
    with closing(open_store(open_bucket(door.port), prefix)) as store:
        expected = [True] * 4 + [False] * 4 + [True] * 4
        assert put(store, range(12)) == expected
        assert store.stats()["num_failed_calls"] == 1 and "403" in store.last_error
        assert store.stats()["num_written_pages"] == 8
        door.refuse = lambda method, path: None
        pages = [page_of(n) if expected[n] else None for n in range(12)]
        assert get(store, range(12)) == pages
        with closing(open_store(open_bucket(shared_s3().port), prefix)) as late:
            assert get(late, range(12)) == pages
        assert put(store, range(12)) == [True] * 12
        assert get(store, range(12)) == [page_of(n) for n in range(12)]


def test_without_its_index_nothing_is_stored(door, prefix) -> None:
    door.refuse = lambda method, path: 403 if method == "PUT" and "/index/" in path else None
    with closing(open_store(open_bucket(door.port), prefix)) as store:
        assert put(store, range(6)) == [False] * 6
        assert store.exists("full", [key_of(n) for n in range(6)]) == [False] * 6
        with pytest.raises(StorageError, match="403"):
            door.refuse = lambda method, path: 403
            store.remove("full", [key_of(0)])
        door.refuse = lambda method, path: None
        assert put(store, range(6)) == [True] * 6 and get(store, [5]) == [page_of(5)]


def test_a_large_batch_is_stored_step_by_step(door, prefix) -> None:
    """What was acknowledged before the service began to refuse is there."""
    indexes: set[str] = set()

    def refuse_the_third_index(method: str, path: str) -> int | None:
        if method == "PUT" and "/index/" in path:
            indexes.add(path)
        return 403 if len(indexes) > 2 else None

    options = {"num_requests": 2, "object_bytes": 2 * PAGE_BYTES["full"]}
    with closing(open_store(open_bucket(door.port), prefix, **options)) as store:
        door.refuse = refuse_the_third_index
        # An index is put for every two objects of two pages, with others of these on their way.
        stored = put(store, range(40))
        batches = [stored[n : n + 4] for n in range(0, 40, 4)]
        assert sum(batch == [True] * 4 for batch in batches[:4]) == 2 and sum(stored) == 8
        door.refuse = lambda method, path: None
        assert get(store, range(40)) == [page_of(n) if stored[n] else None for n in range(40)]


def test_after_a_failure_no_more_is_sent_and_what_was_sent_counts(door, prefix) -> None:
    """Two objects at a time: the second one fails while the third one is on its way."""
    third_is_here, refusal_is_known = threading.Event(), threading.Event()
    arrived: list[str] = []

    def refuse(method: str, path: str) -> int | None:
        if method != "PUT" or "/data/" not in path:
            return None
        arrived.append(path)
        if path.endswith("/00000001"):
            third_is_here.wait(PATIENCE_S)
            return 403
        if len({path.split("/")[-2] for path in arrived}) > 1:
            third_is_here.set()
            refusal_is_known.wait(PATIENCE_S)
        return None

    options = {"num_requests": 2, "object_bytes": 2 * PAGE_BYTES["full"]}
    with closing(open_store(open_bucket(door.port), prefix, **options)) as store:
        door.refuse, put_data = refuse, store._requests.put

        async def put_and_tell(path: str, data: bytes | bytearray) -> None:
            try:
                await put_data(path, data)
            except EngineError:
                refusal_is_known.set()
                raise

        store._requests.put = put_and_tell  # type: ignore[method-assign]
        expected = [True, True, False, False, True, True] + [False] * 34
        assert put(store, range(40)) == expected
        assert len(arrived) == 3
        door.refuse = lambda method, path: None
        assert get(store, range(40)) == [page_of(n) if expected[n] else None for n in range(40)]


def test_a_limit_that_is_over_asks_nothing(door, prefix) -> None:
    with closing(open_store(open_bucket(door.port), prefix)) as store:
        put(store, range(2))
        door.requests.clear()
        keys, over = [key_of(n) for n in range(4)], Limit(0)
        buffers = [bytearray(PAGE_BYTES["full"]) for _ in keys]
        pages = [memoryview(b) for b in buffers]
        assert store.exists("full", keys, over) == [False] * 4
        assert store.read_into("full", keys, pages, over) == [False] * 4
        assert store.write_from("full", keys, pages, over) == [False] * 4
        assert door.requests == [] and store.stats()["num_late_calls"] == 3


def test_clear_that_is_refused_says_so(door, prefix) -> None:
    with closing(open_store(open_bucket(door.port), prefix)) as store:
        put(store, [1])
        door.refuse = lambda method, path: 403 if method in ("POST", "DELETE") else None
        with pytest.raises(StorageError, match="clear"):
            store.clear()
        assert get(store, [1]) == [page_of(1)]


def test_a_service_that_stops_and_goes_on() -> None:
    with rclone_s3() as server:
        clock = Clock()
        breaker = CircuitBreaker(num_failures=2, open_s=5.0, clock=clock)
        bucket = open_bucket(server.port, timeout_s=LONG_S)
        store = open_store(bucket, "p", timeout_s=PATIENCE_S, breaker=breaker)
        assert all(put(store, range(8)))
        os.kill(server.process.pid, signal.SIGSTOP)
        try:
            buffer = bytearray(b"\xa5" * PAGE_BYTES["full"])
            begin = time.monotonic()
            assert store.read_into("full", [key_of(0)], [memoryview(buffer)], Limit(0.1)) == [False]
            limit = Limit()
            threading.Timer(0.05, limit.cancel).start()
            assert store.exists("full", [key_of(99)], limit) == [False]
            assert time.monotonic() - begin < PATIENCE_S
            assert store.stats()["is_open"] == 0  # that was the caller's wish
            store._timeout_s = 0.3
            assert get(store, [1]) == [None] and put(store, [9]) == [False]
            assert "0.3 s" in store.last_error and store.stats()["is_open"] == 1
            assert get(store, [1]) == [None] and store.stats()["num_skipped_calls"] == 1
        finally:
            os.kill(server.process.pid, signal.SIGCONT)
        store._timeout_s = PATIENCE_S
        clock.now_s += 5.0
        wait_for(lambda: get(store, [1]) == [page_of(1)])  # the service has a queue
        assert buffer == b"\xa5" * PAGE_BYTES["full"]
        store.close()


@pytest.mark.parametrize("direction", ["read", "write"])
def test_a_service_that_dies_in_a_batch_and_comes_back(direction: str) -> None:
    with rclone_s3() as server:
        sizes, num_pages = {"full": 1 << 20}, 48
        store = ObjectStore(
            open_bucket(server.port, timeout_s=20.0),
            {"full": NAMESPACES["full"]},
            sizes,
            object_bytes=4 << 20,
            num_requests=2,
            breaker=CircuitBreaker(num_failures=2, open_s=0.2),
        )
        content = random.Random(1).randbytes(1 << 20)
        keys = [key_of(i) for i in range(num_pages)]
        buffers = [bytearray(1 << 20) for _ in keys]
        pages = [memoryview(b) for b in buffers]
        sources = [memoryview(content)] * num_pages
        if direction == "read":
            assert all(store.write_from("full", keys, sources))
        killer = threading.Timer(0.05, server.kill)
        killer.start()
        results = [True]
        while all(results):  # until the kill is seen
            if direction == "read":
                results = store.read_into("full", keys, pages, Limit(20))
            else:
                results = store.write_from("full", keys, sources, Limit(20))
                keys = keys if not all(results) else [os.urandom(32) for _ in keys]
        assert store.stats()["num_failed_calls"] >= 1 and store.last_error
        assert store.read_into("full", keys, pages) == [False] * num_pages
        killer.join()
        server.start()
        time.sleep(0.25)
        found = store.read_into("full", keys, pages)
        assert found == (results if direction == "write" else [True] * num_pages)
        assert all(buffers[i] == content for i in range(num_pages) if found[i])
        assert store.write_from("full", keys, sources) == [True] * num_pages
        assert store.read_into("full", keys, pages) == [True] * num_pages
        assert all(b == content for b in buffers)
        store.close()
