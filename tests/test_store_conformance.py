"""One suite for every PageStore: what a caller may rely on, whatever the backend."""

import random
import threading

import pytest
from store_backends import MAKERS, PAGE_BYTES, get, key_of, page_of, put

from hicache_ext.errors import StorageError
from hicache_ext.storage import Limit, PageStore
from hicache_ext.storage.protocol import STAT_NAMES


@pytest.fixture(params=MAKERS)
def store(request, tmp_path):
    made = MAKERS[request.param](tmp_path)
    yield made
    made.close()


def test_is_a_page_store(store: PageStore) -> None:
    assert isinstance(store, PageStore)


def test_empty_batches(store: PageStore) -> None:
    for pool in ("full", "unknown"):
        assert store.exists(pool, []) == []
        assert store.read_into(pool, [], []) == []
        assert store.write_from(pool, [], []) == []
        assert store.remove(pool, []) == 0


@pytest.mark.parametrize("num_pages", [1, 2, 7, 300])
def test_round_trip(store: PageStore, num_pages: int) -> None:
    numbers = list(range(num_pages))
    assert store.exists("full", [key_of(n) for n in numbers]) == [False] * num_pages
    assert put(store, numbers) == [True] * num_pages
    assert store.exists("full", [key_of(n) for n in numbers]) == [True] * num_pages
    random.Random(num_pages).shuffle(numbers)
    assert get(store, numbers) == [page_of(n) for n in numbers]


def test_partial_presence_is_told_page_by_page(store: PageStore) -> None:
    put(store, range(0, 40, 3))
    expected = [page_of(n) if n % 3 == 0 else None for n in range(40)]
    assert get(store, range(40)) == expected
    held = [e is not None for e in expected]
    assert store.exists("full", [key_of(n) for n in range(40)]) == held


def test_pools_are_apart(store: PageStore) -> None:
    put(store, [1], "full")
    assert get(store, [1], "swa") == [None]
    put(store, [1], "swa")
    assert get(store, [1], "swa") == [page_of(1, "swa")]
    assert store.remove("swa", [key_of(1)]) == 1
    assert get(store, [1], "full") == [page_of(1)]


def test_unknown_pool_is_a_miss(store: PageStore) -> None:
    buffer = bytearray(8)
    assert store.exists("mamba", [key_of(1)]) == [False]
    assert store.read_into("mamba", [key_of(1)], [memoryview(buffer)]) == [False]
    assert store.write_from("mamba", [key_of(1)], [memoryview(buffer)]) == [False]
    assert store.remove("mamba", [key_of(1)]) == 0


def test_duplicates_in_a_batch(store: PageStore) -> None:
    assert put(store, [5, 5, 6, 5]) == [True] * 4
    assert get(store, [5, 6, 5]) == [page_of(5), page_of(6), page_of(5)]
    assert store.stats()["num_pages"] == 2
    pages = [memoryview(page_of(n)) for n in (7, 8)]
    assert store.write_from("full", [key_of(7), key_of(7)], pages) == [True, True]
    assert get(store, [7]) == [page_of(7)]


def test_the_first_value_stays(store: PageStore) -> None:
    put(store, [1])
    other = bytes(PAGE_BYTES["full"])
    assert store.write_from("full", [key_of(1)], [memoryview(other)]) == [True]
    assert get(store, [1]) == [page_of(1)]


def test_write_copies_and_read_leaves_nothing_shared(store: PageStore) -> None:
    buffer = bytearray(page_of(1))
    store.write_from("full", [key_of(1)], [memoryview(buffer)])
    buffer[:] = bytes(len(buffer))
    store.read_into("full", [key_of(1)], [memoryview(buffer)])
    buffer[:] = bytes(len(buffer))
    assert get(store, [1]) == [page_of(1)]


def test_neighbours_of_a_buffer_are_untouched(store: PageStore) -> None:
    put(store, [1, 2])
    num_bytes = PAGE_BYTES["full"]
    arena = bytearray(b"\x5a" * (5 * num_bytes))
    views = [memoryview(arena)[i * num_bytes : (i + 1) * num_bytes] for i in (1, 3)]
    assert store.read_into("full", [key_of(1), key_of(2)], views) == [True, True]
    gap = b"\x5a" * num_bytes
    assert arena == gap + page_of(1) + gap + page_of(2) + gap


def test_buffers_of_another_format(store: PageStore) -> None:
    # A memoryview of a float array is as good as one of bytes: what counts is its bytes.
    import array

    source = array.array("f", range(PAGE_BYTES["full"] // 4))
    assert store.write_from("full", [key_of(1)], [memoryview(source)]) == [True]
    target = array.array("f", [0.0] * len(source))
    assert store.read_into("full", [key_of(1)], [memoryview(target)]) == [True]
    assert target == source


def test_remove_and_rewrite(store: PageStore) -> None:
    put(store, [1, 2, 3])
    assert store.remove("full", [key_of(2), key_of(9), key_of(2)]) == 1
    assert get(store, [1, 2, 3]) == [page_of(1), None, page_of(3)]
    assert store.exists("full", [key_of(2)]) == [False]
    put(store, [2])
    assert get(store, [2]) == [page_of(2)]


def test_clear(store: PageStore) -> None:
    put(store, range(10))
    put(store, range(3), "swa")
    store.clear()
    assert get(store, range(10)) == [None] * 10
    assert get(store, range(3), "swa") == [None] * 3
    assert store.stats()["num_pages"] == 0
    put(store, [1])
    assert get(store, [1]) == [page_of(1)]


def test_keys_that_differ_in_one_bit_or_look_alike(store: PageStore) -> None:
    base = bytearray(32)
    keys = [bytes(base), b"\xff" * 32, b"\0" * 31 + b"/", b"." * 32, b"\0" * 31 + b"\n"]
    for byte_idx in (0, 1, 15, 31):
        flipped = bytearray(base)
        flipped[byte_idx] ^= 1
        keys.append(bytes(flipped))
    pages = [page_of(n) for n in range(len(keys))]
    assert all(store.write_from("full", keys, [memoryview(p) for p in pages]))
    buffers = [bytearray(PAGE_BYTES["full"]) for _ in keys]
    assert all(store.read_into("full", keys, [memoryview(b) for b in buffers]))
    assert [bytes(b) for b in buffers] == pages


def test_stats_add_up(store: PageStore) -> None:
    put(store, range(4))
    put(store, range(6))  # four of them exist
    get(store, range(9))
    put(store, [1], "swa")
    stats = store.stats()
    assert set(STAT_NAMES) <= set(stats)
    assert all(type(value) is int for value in stats.values())
    assert stats["num_written_pages"] == 7
    assert stats["written_bytes"] == 6 * PAGE_BYTES["full"] + PAGE_BYTES["swa"]
    assert (stats["num_read_pages"], stats["num_missed_pages"]) == (6, 3)
    assert stats["read_bytes"] == 6 * PAGE_BYTES["full"]
    assert stats["num_pages"] == 7


def test_misuse_is_a_typed_error_with_the_position(store: PageStore) -> None:
    key, num_bytes = key_of(1), PAGE_BYTES["full"]
    good = memoryview(bytearray(num_bytes))
    for call in (store.read_into, store.write_from):
        with pytest.raises(StorageError, match="position 1 is 31 bytes, expected 32"):
            call("full", [key, key[:31]], [good, good])
        with pytest.raises(StorageError, match="2 keys but 1 pages"):
            call("full", [key, key], [good])
        with pytest.raises(StorageError, match=f"position 1 is {num_bytes - 1} bytes"):
            call("full", [key, key], [good, good[:-1]])
        with pytest.raises(StorageError, match=f"expected {num_bytes} contiguous"):
            call("full", [key], [memoryview(bytearray(2 * num_bytes))[::2]])
    with pytest.raises(StorageError, match="position 0 is read-only"):
        store.read_into("full", [key], [memoryview(bytes(num_bytes))])
    with pytest.raises(StorageError, match="position 0 is 33 bytes"):
        store.exists("full", [key + b"x"])
    with pytest.raises(StorageError, match="position 0 is 0 bytes"):
        store.remove("full", [b""])
    assert store.stats()["num_pages"] == 0  # a refused batch stores nothing
    put(store, [1])
    assert get(store, [1]) == [page_of(1)]


def test_a_closed_store_says_so(store: PageStore) -> None:
    put(store, [1])
    store.close()
    store.close()
    page = memoryview(bytearray(PAGE_BYTES["full"]))
    for call in (
        lambda: store.exists("full", [key_of(1)]),
        lambda: store.read_into("full", [key_of(1)], [page]),
        lambda: store.write_from("full", [key_of(1)], [page]),
        lambda: store.remove("full", [key_of(1)]),
        store.clear,
    ):
        with pytest.raises(StorageError, match="closed"):
            call()


def test_threads_read_write_and_remove_at_once(store: PageStore) -> None:
    """Whatever the order, a page that is delivered is the page of its key."""
    numbers, failures, num_hits = list(range(24)), [], [0]
    start = threading.Barrier(6)

    def worker(seed: int) -> None:
        rng = random.Random(seed)
        start.wait()
        for _ in range(40):
            batch = rng.sample(numbers, rng.randrange(1, 9))
            action = rng.random()
            if action < 0.4:
                if not all(put(store, batch)):
                    failures.append(("write refused", seed, batch))
            elif action < 0.5:
                store.remove("full", [key_of(n) for n in batch])
            else:
                for number, page in zip(batch, get(store, batch), strict=True):
                    num_hits[0] += page is not None
                    if page not in (None, page_of(number)):
                        failures.append(("wrong bytes", seed, number))

    threads = [threading.Thread(target=worker, args=(seed,)) for seed in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    assert num_hits[0] > 0
    assert put(store, numbers) == [True] * len(numbers)
    assert get(store, numbers) == [page_of(n) for n in numbers]


def test_close_during_io_ends_cleanly(store: PageStore) -> None:
    put(store, range(50))
    outcomes = []

    def reader() -> None:
        try:
            while True:
                pages = get(store, range(50))
                assert pages == [page_of(n) for n in range(50)]
        except StorageError as error:
            outcomes.append(str(error))

    threads = [threading.Thread(target=reader) for _ in range(3)]
    for thread in threads:
        thread.start()
    store.close()
    for thread in threads:
        thread.join(timeout=20)
    assert len(outcomes) == 3 and all("closed" in text for text in outcomes)


def test_capabilities_are_told(store: PageStore) -> None:
    assert {type(value) for value in vars(store.capabilities).values()} == {bool}


def test_a_limit_that_is_over(store: PageStore) -> None:
    """Nothing is done and nothing raised; the store works on."""
    assert put(store, [0]) == [True]
    over = Limit()
    over.cancel()
    for limit in (over, Limit(0)):
        keys, buffer = [key_of(0), key_of(1)], bytearray(b"\xa5" * PAGE_BYTES["full"])
        assert store.read_into("full", keys[:1], [memoryview(buffer)], limit) == [False]
        assert buffer == b"\xa5" * PAGE_BYTES["full"]
        pages = [memoryview(page_of(n)) for n in (0, 1)]
        assert not store.write_from("full", keys, pages, limit)[1]
        assert store.exists("full", keys, limit)[1] is False
    assert get(store, [0, 1]) == [page_of(0), None]
    assert store.exists("full", [key_of(0)], Limit(60)) == [True]
