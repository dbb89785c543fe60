"""FallbackStore: who delivers, what is promoted, and that one bad store is no other's fault."""

import random
import threading

import pytest

from hicache_ext.errors import StorageError, StoreTimeout
from hicache_ext.storage import FallbackStore, FaultyStore, Limit, MemoryStore

PAGE_BYTES = 64
KEYS = [random.Random(i).randbytes(32) for i in range(12)]
PAGES = [bytes([i]) * PAGE_BYTES for i in range(12)]


def memory(*numbers: int) -> FaultyStore:
    store = FaultyStore(MemoryStore({"full": PAGE_BYTES}))
    write(store, numbers)
    return store


def write(store, numbers) -> list[bool]:
    return store.write_from(
        "full", [KEYS[i] for i in numbers], [memoryview(PAGES[i]) for i in numbers]
    )


def read(store, numbers, limit: Limit | None = None) -> list[bytes | None]:
    buffers = [bytearray(b"\xa5" * PAGE_BYTES) for _ in numbers]
    views = [memoryview(b) for b in buffers]
    found = store.read_into("full", [KEYS[i] for i in numbers], views, limit)
    return [bytes(b) if ok else None for ok, b in zip(found, buffers, strict=True)]


def has(store) -> list[int]:
    return [i for i, is_there in enumerate(store.exists("full", KEYS)) if is_there]


def test_a_page_comes_from_the_first_store_that_has_it_and_is_promoted() -> None:
    near, middle, far = memory(0), memory(0, 1), memory(0, 1, 2)
    store = FallbackStore([near, middle, far])
    assert has(store) == [0, 1, 2]
    assert read(store, [2, 0, 3, 1]) == [PAGES[2], PAGES[0], None, PAGES[1]]
    store.settle()
    assert (has(near), has(middle), has(far)) == ([0, 1, 2], [0, 1, 2], [0, 1, 2])
    stats = store.stats()
    assert stats["num_promoted_pages"] == 2 and stats["num_unpromoted_pages"] == 0
    assert (stats["num_read_pages"], stats["num_missed_pages"]) == (3, 1)
    assert stats["store2_num_read_pages"] == 1 and stats["store0_num_written_pages"] == 3
    store.close()
    with pytest.raises(StorageError, match="closed"):
        near.exists("full", KEYS)


def test_a_write_goes_where_the_page_lacks() -> None:
    near, far = memory(0), memory(1)
    store = FallbackStore([near, far])
    assert write(store, [0, 1, 2, 2]) == [True] * 4
    assert has(near) == has(far) == [0, 1, 2]
    assert [s.stats()["num_written_pages"] for s in (near, far)] == [3, 3]
    assert store.stats()["num_written_pages"] == 1  # 0 and 1 were there
    store.close()


def test_one_store_that_takes_no_page_is_no_loss() -> None:
    near, far = memory(), memory()
    near.faults.disk_pages = 1
    store = FallbackStore([near, far])
    assert write(store, [0, 1]) == [True, True]
    assert (has(near), has(far)) == ([0], [0, 1])
    far.faults.write_rate = 1.0
    assert write(store, [2]) == [False]
    assert read(store, [0, 1, 2]) == [PAGES[0], PAGES[1], None]
    store.close()


@pytest.mark.parametrize("fault", ["read_rate", "short_rate", "flip_rate"])
def test_a_page_that_the_near_store_cannot_read_comes_from_the_far_one(fault: str) -> None:
    near, far = memory(0, 1), memory(0, 1)
    store = FallbackStore([near, far])
    setattr(near.faults, fault, 1.0)
    assert read(store, [0, 1]) == [PAGES[0], PAGES[1]]
    setattr(far.faults, fault, 1.0)
    assert read(store, [0, 1]) == [None, None]
    assert near.injected and far.injected
    store.close()


def test_what_waits_for_promotion_is_bounded_and_the_rest_counted() -> None:
    near, far = memory(), memory(*range(12))
    gate = threading.Event()
    honest = near.inner.write_from

    def slow(*args):
        assert gate.wait(30)
        return honest(*args)

    near.inner.write_from = slow
    store = FallbackStore([near, far], promotion_bytes=5 * PAGE_BYTES)
    assert read(store, range(4)) == PAGES[:4]
    assert read(store, range(4, 12)) == PAGES[4:]  # the reader does not wait
    assert store.stats()["num_unpromoted_pages"] == 7
    gate.set()
    store.settle()
    assert has(near) == [0, 1, 2, 3, 4]
    assert read(store, [5]) == [PAGES[5]]  # there is room again
    store.close()
    assert near.inner.stats()["num_written_pages"] == 6


def test_a_promotion_that_fails_is_counted_and_the_next_goes_on(caplog) -> None:
    near, far = memory(), memory(*range(4))
    store = FallbackStore([near, far])
    near.faults.raising = {"write_from"}
    assert read(store, [0, 1]) == PAGES[:2]
    store.settle()
    assert "promotion of 2 pages failed" in caplog.text
    near.faults.raising = set()
    assert read(store, [2]) == [PAGES[2]]
    store.settle()
    assert has(near) == [2]
    assert store.stats()["num_promoted_pages"] == 1 and store.stats()["num_unpromoted_pages"] == 2
    store.close()


def test_copies_live_until_the_engine_lets_go_of_them() -> None:
    near, far, let_go = memory(), memory(0), threading.Event()

    def late(*args):
        raise StoreTimeout("late", let_go.wait)

    near.inner.write_from = late
    store = FallbackStore([near, far])
    assert read(store, [0]) == [PAGES[0]]
    waiting = threading.Thread(target=store.settle)
    waiting.start()
    waiting.join(0.05)
    assert waiting.is_alive()
    let_go.set()
    waiting.join(30)
    assert not waiting.is_alive()
    store.close()


def test_remove_and_clear_reach_every_store_and_what_is_on_its_way() -> None:
    near, far = memory(0), memory(0, 1, 2)
    store = FallbackStore([near, far])
    assert read(store, [1, 2]) == PAGES[1:3]
    assert store.remove("full", [KEYS[1], KEYS[1], KEYS[5]]) == 1
    assert has(near) == has(far) == [0, 2]
    assert read(store, [0]) == [PAGES[0]]
    store.clear()
    assert has(near) == has(far) == []
    store.close(), store.close()


def test_a_limit_that_is_over_asks_no_further_store() -> None:
    near, far = memory(), memory(0)
    store = FallbackStore([near, far])
    over = Limit(0)
    assert read(store, [0], over) == [None]
    assert far.stats()["num_read_pages"] == 0 and far.stats()["num_missed_pages"] == 0
    store.close()


def test_stores_that_answer_short() -> None:
    class Short(MemoryStore):
        def read_into(self, *args):
            return super().read_into(*args)[:1]

        def exists(self, *args):
            return []

    near = Short({"full": PAGE_BYTES})
    write(near, [0, 1])
    far = memory(0, 1)
    store = FallbackStore([near, far])
    assert read(store, [0, 1]) == PAGES[:2]
    assert has(store) == [0, 1]
    store.close()


@pytest.mark.parametrize(("num_stores", "num_bytes"), [(0, 1), (1, -1)])
def test_bad_arguments(num_stores: int, num_bytes: int) -> None:
    with pytest.raises(StorageError, match=f"of {num_stores} stores, promotion_bytes={num_bytes}"):
        FallbackStore([memory()] * num_stores, promotion_bytes=num_bytes)
