"""RedisStore at a real Valkey: ways in, who shares what, a server that is full or dies."""

import random
import ssl
import subprocess
import threading
import time
from contextlib import closing
from dataclasses import replace

import pytest
from net_servers import shared_valkey, valkey
from resp_server import RespServer
from store_backends import NAMESPACES, PAGE_BYTES, get, key_of, page_of, put

from hicache_ext.errors import StorageError
from hicache_ext.storage import Limit, RedisServer, RedisStore
from hicache_ext.storage.breaker import CircuitBreaker
from hicache_ext.storage.ports import free_port


def open_store(where, **options) -> RedisStore:
    return RedisStore(where, NAMESPACES, PAGE_BYTES, **options)


def opened(where, **options):
    return closing(open_store(where, **options))


def test_ways_in(tmp_path) -> None:
    path = tmp_path / "v.sock"
    with valkey("--unixsocket", str(path), "--requirepass", "p@ss/1") as server:
        good = RedisServer(port=server.port, password="p@ss/1")
        ways = [
            good,
            replace(good, username="default"),
            replace(good, unix_path=str(path)),
            f"redis://default:p%40ss%2F1@127.0.0.1:{server.port}/0",
            f"unix://:p%40ss%2F1@{path}?db=0",
        ]
        with opened(ways[0]) as first:
            put(first, [1])
            for way in ways:
                with opened(way) as store:
                    assert get(store, [1]) == [page_of(1)], way
        with opened(replace(good, database=3)) as store:
            assert get(store, [1]) == [None]
        refused = {"WRONGPASS": "wrong", "NOAUTH": None}
        for word, password in refused.items():
            with pytest.raises(StorageError, match=word) as error:
                open_store(replace(good, password=password))
            assert str(password) not in str(error.value)
        with pytest.raises(StorageError, match="SELECT"):
            open_store(replace(good, database=99))
        assert "p@ss" not in repr(good) + str(good)


@pytest.mark.parametrize(
    "url", ["http://host", "redis://host:port", "redis://host:99999999", "redis://h/x", "", "host"]
)
def test_bad_urls_are_typed_errors(url: str) -> None:
    with pytest.raises(StorageError, match="URL of a Redis server"):
        RedisServer.from_url(url)


def test_bad_options_are_typed_errors() -> None:
    server = RedisServer(port=shared_valkey().port)
    for options in ({"num_links": 0}, {"timeout_s": 0}, {"connect_timeout_s": -1}):
        with pytest.raises(StorageError, match=next(iter(options))):
            open_store(server, **options)
    with pytest.raises(StorageError, match=r"page_bytes=536870912, too large"):
        RedisStore(server, {"full": NAMESPACES["full"]}, {"full": 512 << 20})
    with pytest.raises(StorageError, match="namespaces for"):
        RedisStore(server, {}, PAGE_BYTES)


def test_over_tls(tmp_path) -> None:
    key, certificate = tmp_path / "key.pem", tmp_path / "cert.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj",
         "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1",
         "-keyout", key, "-out", certificate],
        check=True, capture_output=True,
    )  # fmt: skip
    inside = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    inside.load_cert_chain(certificate, key)
    trusting = ssl.create_default_context(cafile=certificate)
    with RespServer(tls=inside) as server:
        with opened(replace(server.address, tls=trusting)) as store:
            numbers = list(range(40))
            assert put(store, numbers) == [True] * 40
            assert get(store, [*numbers, 99]) == [*map(page_of, numbers), None]
            assert store.exists("full", [key_of(1), key_of(99)]) == [True, False]
        with pytest.raises(StorageError, match="CERTIFICATE_VERIFY_FAILED"):
            open_store(replace(server.address, tls=ssl.create_default_context()))
        with pytest.raises(StorageError, match="open"):
            open_store(server.address, timeout_s=1.0, connect_timeout_s=0.2)


def test_namespaces_are_apart_and_shared_by_equals() -> None:
    server = RedisServer(port=shared_valkey().port)
    others = {pool: replace(spaces, dtype="float16") for pool, spaces in NAMESPACES.items()}
    with opened(server) as a, opened(server) as b:
        a.clear()
        with closing(RedisStore(server, others, PAGE_BYTES)) as other:
            put(a, range(2000))
            put(other, [1, 2])
            assert get(b, [1, 1999]) == [page_of(1), page_of(1999)]
            assert get(other, [3]) == [None]
            b.clear()
            assert get(a, [1, 1999]) == [None, None]
            assert get(other, [1, 2]) == [page_of(1), page_of(2)]
            other.clear()


def test_a_pool_whose_name_is_a_pattern_clears_only_itself() -> None:
    server, spaces = RedisServer(port=shared_valkey().port), NAMESPACES["full"]
    with closing(RedisStore(server, {"*": spaces, "x": spaces}, {"*": 8, "x": 8})) as both:
        page = memoryview(b"12345678")
        for pool in ("*", "x"):
            both.write_from(pool, [key_of(1)], [page])
        with closing(RedisStore(server, {"*": spaces}, {"*": 8})) as star:
            star.clear()
        assert both.exists("*", [key_of(1)]) == [False]
        assert both.exists("x", [key_of(1)]) == [True]
        both.clear()


def test_another_page_size_is_a_miss_and_makes_way() -> None:
    server, spaces = RedisServer(port=shared_valkey().port), {"full": NAMESPACES["full"]}
    with closing(RedisStore(server, spaces, {"full": 8})) as small, opened(server) as store:
        small.write_from("full", [key_of(1)], [memoryview(b"12345678")])
        assert get(store, [1]) == [None]
        assert put(store, [1]) == [True] and get(store, [1]) == [page_of(1)]
        store.clear()


def test_a_full_server_refuses_and_goes_on_reading() -> None:
    with valkey("--maxmemory", "8mb", "--maxmemory-policy", "noeviction") as server:
        pages = {"full": 1 << 20}
        store = RedisStore(RedisServer(port=server.port), {"full": NAMESPACES["full"]}, pages)
        data = [random.Random(i).randbytes(1 << 20) for i in range(24)]
        keys = [key_of(i) for i in range(24)]
        written = store.write_from("full", keys, [memoryview(d) for d in data])
        assert 1 <= sum(written) <= 12 and "OOM" in store.last_error
        buffers = [bytearray(1 << 20) for _ in keys]
        found = store.read_into("full", keys, [memoryview(b) for b in buffers])
        assert found == written == [b == d for b, d in zip(buffers, data, strict=True)]
        store.close()


def test_a_replica_is_read_only() -> None:
    # A replica without its primary: it answers reads, and refuses writes.
    options = (
        "--replicaof",
        f"127.0.0.1 {free_port('127.0.0.1')}",
        "--repl-diskless-load",
        "disabled",
    )
    with valkey(*options) as server, opened(RedisServer(port=server.port)) as store:
        assert put(store, [1]) == [False] and "READONLY" in store.last_error
        assert get(store, [1]) == [None]
        with pytest.raises(StorageError, match="READONLY"):
            store.remove("full", [key_of(1)])


@pytest.mark.parametrize("direction", ["read", "write"])
def test_a_server_that_dies_in_a_batch_and_comes_back(direction: str) -> None:
    with valkey() as server:
        breaker = CircuitBreaker(num_failures=2, open_s=0.2)
        sizes, num_pages = {"full": 1 << 20}, 48
        store = RedisStore(
            RedisServer(port=server.port), {"full": NAMESPACES["full"]}, sizes, breaker=breaker
        )
        content = random.Random(1).randbytes(1 << 20)
        keys = [key_of(i) for i in range(num_pages)]
        call = store.write_from if direction == "write" else store.read_into
        buffers = [bytearray(content) for _ in keys]
        pages = [memoryview(b) for b in buffers]
        assert all(store.write_from("full", keys[: num_pages // 2], pages[: num_pages // 2]))
        killer = threading.Timer(0.01, server.kill)
        killer.start()
        results = [True]
        while all(results[: num_pages // 2]):  # until the kill is seen
            results = call("full", keys, pages, Limit(20))
        assert store.stats()["num_failed_calls"] >= 1 and store.last_error
        for key, page in zip(keys, pages, strict=True):
            assert store.exists("full", [key]) == [False]
            assert store.read_into("full", [key], [page]) == [False]
        assert store.stats()["num_skipped_calls"] > 0
        killer.join()
        server.start()
        time.sleep(0.25)
        assert store.write_from("full", keys, [memoryview(content)] * num_pages) == [True] * 48
        assert store.read_into("full", keys, pages) == [True] * num_pages
        assert all(b == content for b in buffers)
        store.close()
