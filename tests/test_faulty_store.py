"""FaultyStore: each fault does what its name says, is counted, and repeats with its seed."""

import random
import threading
import time

import pytest

from hicache_ext.errors import StorageError
from hicache_ext.storage import Answer, FaultyStore, Limit, MemoryStore, restorable_endpoints

PAGE_BYTES = {"full": 64, "swa": 32}
KEYS = [random.Random(i).randbytes(32) for i in range(40)]


def page_of(pool: str, i: int) -> bytes:
    return bytes([i]) * PAGE_BYTES[pool]


def make(**faults) -> FaultyStore:
    """A store that holds every key in both pools, with faults that began afterwards."""
    inner = MemoryStore(PAGE_BYTES)
    for pool in PAGE_BYTES:
        pages = [memoryview(page_of(pool, i)) for i in range(len(KEYS))]
        assert all(inner.write_from(pool, KEYS, pages))
    return FaultyStore(inner, **faults)


def read(store: FaultyStore, pool: str, keys=KEYS) -> tuple[list[bool], list[bytes]]:
    buffers = [bytearray(PAGE_BYTES[pool]) for _ in keys]
    found = store.read_into(pool, keys, [memoryview(b) for b in buffers])
    return found, [bytes(b) for b in buffers]


def test_lost_pages_are_gone_from_exists_and_read() -> None:
    store = make(lost={("swa", KEYS[3])})
    expected = [i != 3 for i in range(40)]
    assert store.exists("swa", KEYS) == expected
    assert read(store, "swa")[0] == expected
    assert store.exists("full", KEYS) == [True] * 40
    assert store.injected == {"num_hidden_pages": 1, "num_lost_pages": 1}


def test_pages_lost_only_at_the_read_are_poisoned() -> None:
    store = make(lost_on_read={("full", KEYS[5])})
    assert store.exists("full", KEYS) == [True] * 40
    found, contents = read(store, "full")
    assert found == [i != 5 for i in range(40)]
    assert contents[5] == b"\xff" * 64 and contents[6] == page_of("full", 6)


def test_the_kth_page_of_each_read_fails() -> None:
    store = make(failed_page_idx={"swa": 2})
    for keys in (KEYS[:5], KEYS[7:12], KEYS[:2]):
        assert read(store, "swa", keys)[0] == [i != 2 for i in range(len(keys))]
    assert read(store, "full")[0] == [True] * 40
    assert store.stats()["injected_num_lost_pages"] == 2


@pytest.mark.parametrize(("answer", "length"), [(Answer.NOTHING, 0), (Answer.SHORT, 20)])
def test_a_pool_that_answers_too_little(answer: Answer, length: int) -> None:
    store = make(answers={"swa": answer})
    held = store.exists("swa", KEYS)
    assert held == [True] * length
    assert len(read(store, "swa")[0]) == length
    full = store.exists("full", KEYS)
    legal = restorable_endpoints(full, {"swa": (held, 4)}, has_head=False)
    assert legal == list(range(4, length + 1))
    assert store.injected == {"num_cut_answers": 2}


@pytest.mark.parametrize("call", ["exists", "read_into", "write_from", "remove", "clear"])
def test_a_call_that_raises(call: str) -> None:
    store = make(raising={call})
    arguments = {"exists": ("full", []), "remove": ("full", []), "clear": ()}
    with pytest.raises(StorageError, match=f"{call} was told to fail"):
        getattr(store, call)(*arguments.get(call, ("full", [], [])))
    store.faults.raising.clear()
    assert read(store, "full")[0] == [True] * 40
    assert store.injected == {"num_raised_calls": 1}


def test_delay_is_per_call_and_lets_other_threads_run() -> None:
    store, limit = make(delay_s=60.0), Limit(30)
    threads = [threading.Thread(target=store.exists, args=("full", KEYS, limit)) for _ in range(8)]
    for thread in threads:
        thread.start()
    while store.injected.get("num_delayed_calls") != 8:  # all are in it, and none is through
        assert not limit.is_over
        time.sleep(0.001)
    assert all(thread.is_alive() for thread in threads)
    limit.cancel()
    for thread in threads:
        thread.join()
    assert store.injected == {"num_delayed_calls": 8}


def test_random_faults_repeat_with_their_seed_whatever_the_order() -> None:
    def outcome(seed: int, order: list[int]) -> dict[int, list[bool]]:
        store = make(seed=seed, read_rate=0.3, exists_rate=0.3)
        return {i: [read(store, "full", [KEYS[i]])[0][0] for _ in range(5)] for i in order}

    forwards = outcome(1, list(range(40)))
    assert forwards == outcome(1, list(reversed(range(40))))
    assert forwards != outcome(2, list(range(40)))
    lost = sum(not ok for results in forwards.values() for ok in results)
    assert 30 <= lost <= 90  # 200 draws at 0.3


def test_unwritten_pages_are_told_and_not_there() -> None:
    store = FaultyStore(MemoryStore(PAGE_BYTES), seed=3, write_rate=0.5)
    pages = [memoryview(page_of("full", i)) for i in range(40)]
    written = store.write_from("full", KEYS, pages)
    assert 8 < sum(written) < 32
    assert store.exists("full", KEYS) == written
    assert store.injected == {"num_unwritten_pages": 40 - sum(written)}


def test_faults_can_be_switched_on_and_off_while_it_runs() -> None:
    store = make()
    assert store.exists("full", KEYS) == [True] * 40 and store.injected == {}
    store.faults.exists_rate = 1.0
    assert store.exists("full", KEYS) == [False] * 40
    store.faults.exists_rate = 0.0
    assert store.exists("full", KEYS) == [True] * 40


def test_short_and_flipped_pages_are_misses_that_look_nearly_right() -> None:
    short = make(short_rate=1.0)
    found, contents = read(short, "full", KEYS[:2])
    assert found == [False, False] and contents[1] == b"\1" * 32 + b"\xff" * 32
    flipped = make(flip_rate=1.0)
    found, contents = read(flipped, "full", KEYS[:2])
    assert found == [False, False]
    assert sum(a != b for a, b in zip(contents[1], page_of("full", 1), strict=True)) == 1
    assert short.injected == {"num_short_pages": 2}
    assert flipped.injected == {"num_flipped_pages": 2}


def test_a_full_disk_takes_what_it_has_and_nothing_else() -> None:
    store = FaultyStore(MemoryStore(PAGE_BYTES), disk_pages=3)
    pages = [memoryview(page_of("full", i)) for i in range(5)]
    assert store.write_from("full", KEYS[:2], pages[:2]) == [True] * 2
    assert store.write_from("full", KEYS[1:5], pages[1:]) == [True, True, False, False]
    assert store.exists("full", KEYS[:5]) == [True] * 3 + [False] * 2
    store.remove("full", KEYS[:1])
    assert store.write_from("full", KEYS[3:5], pages[3:]) == [True, False]
