"""Stores at the ends of what a call may be: 10 000 pages, 32 MiB each, cancelled half way."""

import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from store_tools import BASE, key_of

from hicache_ext.storage import Limit, MemoryStore, PageStore, SegmentStore

Maker = Callable[[Path, int], PageStore]
MAKERS: dict[str, Maker] = {
    "memory": lambda root, num_bytes: MemoryStore({"full": num_bytes}),
    "segment": lambda root, num_bytes: SegmentStore(
        root / "store", {"full": BASE}, {"full": num_bytes}
    ),
}


@pytest.fixture(params=MAKERS)
def make(request, tmp_path) -> Callable[[int], PageStore]:
    return lambda num_bytes: MAKERS[request.param](tmp_path, num_bytes)


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


def test_a_call_that_is_cancelled_tells_what_it_has_done(make) -> None:
    store, num_pages = make(4096), 4000
    keys = [key_of(i) for i in range(num_pages)]
    page = bytes(range(256)) * 16
    limit = Limit(60)
    threading.Timer(0.002, limit.cancel).start()
    stored = store.write_from("full", keys, [memoryview(page)] * num_pages, limit)
    buffer = bytearray(4096)
    for i in range(0, num_pages, 97):
        assert store.read_into("full", [keys[i]], [memoryview(buffer)]) == [stored[i]]
        assert not stored[i] or buffer == page
    assert all(store.write_from("full", keys, [memoryview(page)] * num_pages))
    store.close()
