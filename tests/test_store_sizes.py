"""Stores at the ends of what a call may be: 10 000 pages, 32 MiB each, cancelled half way."""

import threading
from collections.abc import Callable

import pytest
from store_backends import MAKERS, key_of

from hicache_ext.errors import StoreTimeout
from hicache_ext.storage import Limit, PageStore

QUICK = ("memory", "segment")


@pytest.fixture(
    params=[pytest.param(n, marks=() if n in QUICK else pytest.mark.long) for n in MAKERS]
)
def make(request, tmp_path) -> Callable[[int], PageStore]:
    return lambda num_bytes: MAKERS[request.param](tmp_path, {"full": num_bytes})


def test_ten_thousand_pages_in_a_batch(make) -> None:
    store, num_pages, num_bytes = make(64), 10_000, 64
    keys = [number.to_bytes(32, "little") for number in range(num_pages)]
    arena = bytearray(b"".join(key * 2 for key in keys))
    pages = [memoryview(arena)[i * num_bytes :][:num_bytes] for i in range(num_pages)]
    assert store.write_from("full", keys[::2], pages[::2]) == [True] * (num_pages // 2)
    expected, arena[:] = bytes(arena), bytes(len(arena))
    assert store.read_into("full", keys, pages) == [True, False] * (num_pages // 2)
    assert all(pages[i] == expected[i * num_bytes :][:num_bytes] for i in range(0, num_pages, 2))
    assert store.exists("full", keys) == [True, False] * (num_pages // 2)
    assert store.remove("full", keys) == num_pages // 2
    store.close()


def test_pages_of_32_mib(make) -> None:
    num_bytes = 32 << 20
    store = make(num_bytes)
    pages = [memoryview(bytes([i]) * num_bytes) for i in (1, 2)]
    keys = [key_of(0), key_of(1)]
    assert store.write_from("full", keys, pages) == [True, True]
    buffers = [bytearray(num_bytes), bytearray(num_bytes)]
    assert store.read_into("full", keys[::-1], [memoryview(b) for b in buffers]) == [True, True]
    assert [bytes(b) for b in buffers] == [bytes(pages[1]), bytes(pages[0])]
    store.close()


@pytest.mark.parametrize("after_s", [0.002, 0.02])
def test_a_call_that_is_cancelled_tells_what_it_has_done(make, after_s: float) -> None:
    store, num_pages = make(4096), 2000
    keys = [key_of(i) for i in range(num_pages)]
    page = bytes(range(256)) * 16
    limit = Limit(60)
    threading.Timer(after_s, limit.cancel).start()
    try:
        stored = store.write_from("full", keys, [memoryview(page)] * num_pages, limit)
    except StoreTimeout as error:
        assert error.wait()
        stored = [False] * num_pages
    buffer = bytearray(4096)
    for i in range(0, num_pages, 97):  # one that a server did not answer for may be there
        is_read = store.read_into("full", [keys[i]], [memoryview(buffer)]) == [True]
        assert is_read or not stored[i]
        assert not is_read or buffer == page
    assert all(store.write_from("full", keys, [memoryview(page)] * num_pages))
    store.close()


def test_a_read_that_is_cancelled_delivers_what_it_says(make) -> None:
    store, num_pages = make(4096), 2000
    keys = [key_of(i) for i in range(num_pages)]
    pages = [memoryview(i.to_bytes(4, "little") * 1024) for i in range(num_pages)]
    assert all(store.write_from("full", keys, pages))
    buffers = [bytearray(4096) for _ in keys]
    limit = Limit(60)
    threading.Timer(0.002, limit.cancel).start()
    try:
        found = store.read_into("full", keys, [memoryview(b) for b in buffers], limit)
    except StoreTimeout as error:
        assert error.wait()
        found = [False] * num_pages
    assert all(b == page for ok, b, page in zip(found, buffers, pages, strict=True) if ok)
    store.close()


def test_writers_while_it_closes(make) -> None:
    """Each call is whole: what it told is true, and the next one is an error."""
    store = make(4096)
    page, ended = memoryview(bytes(4096)), []

    def write(first: int) -> None:
        try:
            for number in range(first, first + 1_000_000, 8):
                keys = [key_of(n) for n in range(number, number + 8)]
                assert store.write_from("full", keys, [page] * 8) == [True] * 8
        except Exception as error:
            ended.append(str(error))

    threads = [threading.Thread(target=write, args=(10**7 * i,)) for i in range(3)]
    for thread in threads:
        thread.start()
    while store.stats()["num_written_pages"] < 50:
        assert all(thread.is_alive() for thread in threads)
    store.close()
    for thread in threads:
        thread.join(60)
    assert len(ended) == 3 and all("closed" in text for text in ended)
