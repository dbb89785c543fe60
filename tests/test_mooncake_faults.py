"""MooncakeStore on a real cluster: killed nodes and masters, copies, sizes, other clients."""

import random
import signal
import subprocess
import sys
import threading
import time
from functools import partial

import pytest
from mooncake_tools import TTL_S, cluster, make_store, need_mooncake, shared_client, shared_nodes
from waiting import PATIENCE_S, Clock, wait_for

from hicache_ext.errors import StorageError, StoreTimeout
from hicache_ext.storage import MooncakeClient, MooncakeStore
from hicache_ext.storage.breaker import BreakerState, CircuitBreaker
from hicache_ext.storage.ports import free_port

PAGE_BYTES = 16 << 10
CLI = "from hicache_ext.cli.main import app; app()"
NODES = "from hicache_ext.storage.mooncake_nodes import MooncakeNodes"


def key_of(number: int) -> bytes:
    return random.Random(number).randbytes(32)


def page_of(number: int, page_bytes: int = PAGE_BYTES) -> bytes:
    return random.Random(-number - 1).randbytes(page_bytes)


def put(store: MooncakeStore, numbers, page_bytes: int = PAGE_BYTES) -> list[bool]:
    pages = [memoryview(page_of(n, page_bytes)) for n in numbers]
    return store.write_from("full", [key_of(n) for n in numbers], pages)


def get(store: MooncakeStore, numbers, page_bytes: int = PAGE_BYTES) -> list[bytes | None]:
    buffers = [bytearray(b"\xa5" * page_bytes) for _ in numbers]
    keys = [key_of(n) for n in numbers]
    found = store.read_into("full", keys, [memoryview(b) for b in buffers])
    return [bytes(b) if ok else None for ok, b in zip(found, buffers, strict=True)]


until = partial(wait_for, poll_s=0.1)


def test_a_storage_node_killed_during_reads() -> None:
    """Its pages are misses, none is wrong, no call hangs; after the TTL all can be written anew."""
    numbers, wrong, call_s = range(100), [], []
    stop = threading.Event()
    with cluster() as nodes:
        client = MooncakeClient(nodes.master, call_timeout_s=3.0)
        store = make_store(client, PAGE_BYTES)
        assert put(store, numbers) == [True] * 100
        expected = [page_of(n) for n in numbers]

        def reader() -> None:
            while not stop.is_set():
                begin_s = time.monotonic()
                found = get(store, numbers)
                call_s.append(time.monotonic() - begin_s)
                wrong.extend(n for n in numbers if found[n] not in (None, expected[n]))

        readers = [threading.Thread(target=reader) for _ in range(2)]
        for thread in readers:
            thread.start()
        until(lambda: len(call_s) > 4)
        nodes.kill_node(1)
        time.sleep(TTL_S / 2)
        stop.set()
        for thread in readers:
            thread.join()
        found = get(store, numbers)
        assert 0 < found.count(None) < 100  # the other node's pages are there throughout
        assert store.stats()["num_unreachable_pages"] > 0
        assert store.stats()["is_open"] == 0
        until(lambda: store.exists("full", [key_of(n) for n in numbers]).count(False) > 0)
        until(lambda: put(store, numbers) == [True] * 100)
        assert get(store, numbers) == expected
        store.close()
        client.close()
    assert wrong == []
    assert store.stats()["num_corrupt_pages"] == 0
    assert max(call_s) < PATIENCE_S


def test_a_killed_master_opens_the_breaker_and_a_restarted_one_closes_it() -> None:
    with cluster(num_nodes=1) as nodes:
        client = MooncakeClient(nodes.master, call_timeout_s=1.0)
        clock = Clock()
        breaker = CircuitBreaker(num_failures=2, open_s=1.0, clock=clock)
        store = make_store(client, PAGE_BYTES, breaker=breaker)
        put(store, range(4))
        nodes.kill_master()
        pages = [memoryview(bytearray(page_of(9)))]
        late = []
        for _ in range(4):  # each would block for 4 s
            if breaker.state is BreakerState.OPEN:
                break
            try:
                assert store.read_into("full", [key_of(9)], pages) == [False]
            except StoreTimeout as error:
                late.append(error)
        assert breaker.state is BreakerState.OPEN
        assert store.exists("full", [key_of(1)]) == [False]
        assert put(store, range(4)) == [False] * 4
        assert store.stats()["num_skipped_calls"] == 2  # nobody was asked
        with pytest.raises(StorageError, match=f"no Mooncake cluster at {nodes.master}"):
            MooncakeClient(nodes.master)
        assert all(error.wait(PATIENCE_S) for error in late)
        nodes.start_master()  # it knows nothing, and the node comes back to it by itself

        def is_back() -> bool:
            clock.now_s += 1.0
            return put(store, range(4)) == [True] * 4

        until(is_back)
        assert breaker.state is BreakerState.CLOSED
        assert get(store, range(4)) == [page_of(n) for n in range(4)]
        store.close()
        client.close()


def test_two_copies_on_two_nodes() -> None:
    client = shared_client()
    store = make_store(client, PAGE_BYTES, num_replicas=2)
    assert put(store, range(10)) == [True] * 10
    assert get(store, range(10)) == [page_of(n) for n in range(10)]
    assert store.stats()["num_under_replicated_pages"] == 0
    too_many = make_store(client, PAGE_BYTES, num_replicas=3)
    assert put(too_many, range(10)) == [True] * 10
    assert too_many.stats()["num_under_replicated_pages"] == 10


def test_large_pages() -> None:
    store = make_store(shared_client(), 32 << 20)
    pages = [memoryview(page_of(n, 32 << 20)) for n in range(2)]
    buffers = [memoryview(bytearray(32 << 20)) for _ in range(3)]
    keys = [key_of(n) for n in range(3)]
    assert store.write_from("full", keys[:2], pages) == [True, True]
    assert store.read_into("full", keys[::-1], buffers) == [False, True, True]
    assert buffers[:0:-1] == pages
    store.clear()


def test_a_page_of_one_byte() -> None:
    store = make_store(shared_client(), 1)
    assert put(store, range(5), 1) == [True] * 5
    assert get(store, range(5), 1) == [page_of(n, 1) for n in range(5)]


def test_more_than_fits() -> None:
    """The oldest are evicted, and what is left is right; what can never fit is refused."""
    with cluster(num_nodes=1, node_bytes=64 << 20) as nodes:
        client = MooncakeClient(nodes.master)
        store = make_store(client, 1 << 20)
        for start in range(0, 100, 10):
            put(store, range(start, start + 10), 1 << 20)
        found = get(store, range(100), 1 << 20)
        assert all(page in (None, page_of(n, 1 << 20)) for n, page in enumerate(found))
        assert 10 < 100 - found.count(None) <= 64
        too_large = make_store(client, 65 << 20)
        page = memoryview(bytearray(65 << 20))
        assert too_large.write_from("full", [key_of(1)], [page]) == [False]
        assert too_large.stats()["num_refused_pages"] == 1
        assert too_large.exists("full", [key_of(1)]) == [False]
        for each in (store, too_large, client):
            each.close()


def test_another_client_reads_what_this_one_wrote() -> None:
    store = make_store(shared_client(), PAGE_BYTES)
    assert put(store, range(3)) == [True] * 3
    other_client = MooncakeClient(shared_nodes().master)
    other = make_store(other_client, PAGE_BYTES)
    assert get(other, range(3)) == [None] * 3  # of another model
    other._pools = store._pools
    assert get(other, range(3)) == [page_of(n) for n in range(3)]
    assert other.remove("full", [key_of(0)]) == 1
    assert store.exists("full", [key_of(0), key_of(1)]) == [False, True]
    other.clear()
    assert store.exists("full", [key_of(1)]) == [False]
    other.close()
    other_client.close()


def test_the_processes_end_with_the_one_that_started_them() -> None:
    need_mooncake()
    code = f"{NODES}; n = MooncakeNodes(node_bytes=1 << 24); p = [n._master, *n.nodes]"
    code += "; print(*(x.pid for x in p), flush=True); input()"
    parent = subprocess.Popen(
        [sys.executable, "-c", code],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert parent.stdout is not None
    pids = [int(pid) for pid in parent.stdout.readline().split()]
    assert len(pids) == 2
    parent.kill()
    parent.communicate()
    until(lambda: not any(is_running(pid) for pid in pids))


def is_running(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_the_command_serves_until_it_is_told_to_end() -> None:
    need_mooncake()
    port = free_port("127.0.0.1")
    command = [sys.executable, "-c", CLI, "mooncake", "--gib", "0.02"]
    served = subprocess.Popen(
        [*command, "--port", str(port)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert served.stdout is not None
    assert served.stdout.readline() == f"master 127.0.0.1:{port}, storage nodes here: 1\n"
    client = MooncakeClient(f"127.0.0.1:{port}")
    store = make_store(client, PAGE_BYTES)
    assert put(store, range(3)) == [True] * 3
    store.close()
    client.close()
    served.send_signal(signal.SIGINT)
    assert served.wait(PATIENCE_S) == 0
