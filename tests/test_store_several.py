"""Several pools in one call, of every store: the answers of one call for each, in one go."""

import random
import threading

import pytest
from store_backends import MAKERS, PAGE_BYTES, get, key_of, page_of, put

from hicache_ext.errors import StorageError
from hicache_ext.storage import (
    FallbackStore,
    FaultyStore,
    Limit,
    MemoryStore,
    PageStore,
    PageWrite,
    PoolBatch,
    SeveralPools,
    exists_many,
    read_many,
    write_many,
)
from hicache_ext.storage.pieces import Piece, PieceStore

POOLS = ("full", "swa", "unknown")
NEW, THERE, REFUSED = PageWrite.NEW, PageWrite.THERE, PageWrite.REFUSED


def make_pieces(tmp_path) -> PageStore:
    """Over a store that has calls for several pools, each pool in two pieces."""
    cuts = {
        pool: [Piece(f"{pool}0", 0, 100), Piece(f"{pool}1", 100, num_bytes - 100)]
        for pool, num_bytes in PAGE_BYTES.items()
    }
    sizes = {piece.pool: piece.num_bytes for cut in cuts.values() for piece in cut}
    return PieceStore(FallbackStore([MemoryStore(sizes), MemoryStore(sizes)]), cuts)


@pytest.fixture(params=[*MAKERS, "pieces"])
def store(request, tmp_path):
    made = (MAKERS | {"pieces": make_pieces})[request.param](tmp_path)
    yield made
    made.close()


def to_write(pool: str, numbers) -> PoolBatch:
    num_bytes = PAGE_BYTES.get(pool, 8)
    pages = [memoryview(page_of(n, pool) if pool in PAGE_BYTES else bytes(8)) for n in numbers]
    assert all(page.nbytes == num_bytes for page in pages)
    return PoolBatch(pool, [key_of(n) for n in numbers], pages)


def to_read(pool: str, numbers) -> PoolBatch:
    buffers = [bytearray(b"\xa5" * PAGE_BYTES.get(pool, 8)) for _ in numbers]
    return PoolBatch(pool, [key_of(n) for n in numbers], [memoryview(b) for b in buffers])


def read_all(store: PageStore, wanted, limit: Limit | None = None) -> list[list[bytes | None]]:
    batches = [to_read(*each) for each in wanted]
    found = read_many(store, batches, limit)
    return [
        [bytes(page) if ok else None for ok, page in zip(told, batch.pages, strict=True)]
        for told, batch in zip(found, batches, strict=True)
    ]


def test_no_pools_and_no_pages(store: PageStore) -> None:
    assert exists_many(store, []) == read_many(store, []) == write_many(store, []) == []
    empty = [PoolBatch(pool, []) for pool in POOLS]
    for call in (exists_many, read_many, write_many):
        assert call(store, empty) == [[], [], []]


def test_all_that_is_written_is_told_and_found_pool_by_pool(store: PageStore) -> None:
    wanted = [("swa", [1, 2]), ("unknown", [1]), ("full", [1, 2, 3])]
    batches = [to_write(*each) for each in wanted]
    absent = [[False] * 2, [False], [False] * 3]
    assert exists_many(store, batches) == absent and read_all(store, wanted) == [
        [None] * 2,
        [None],
        [None] * 3,
    ]
    assert write_many(store, batches) == [[NEW] * 2, [REFUSED], [NEW] * 3]
    assert exists_many(store, batches) == [[True] * 2, [False], [True] * 3]
    assert read_all(store, [("full", [3, 4, 1]), ("unknown", [1]), ("swa", [2, 3])]) == [
        [page_of(3), None, page_of(1)],
        [None],
        [page_of(2, "swa"), None],
    ]
    assert get(store, [2]) == [page_of(2)] and get(store, [1], "swa") == [page_of(1, "swa")]


def test_what_was_there_is_told_apart_from_what_is_new(store: PageStore) -> None:
    put(store, [1], "swa")
    put(store, [2])
    batches = [to_write("full", [1, 2, 1]), to_write("swa", [1, 2]), to_write("full", [1, 3])]
    fates = write_many(store, batches)
    assert fates[0][1] is THERE and fates[1] == [THERE, NEW] and fates[2][1] is NEW
    assert sorted(f.value for f in fates[0][::2] + fates[2][:1]) == ["new", "there", "there"]
    assert get(store, [1, 2, 3]) == [page_of(n) for n in (1, 2, 3)]


def test_a_pool_twice_and_a_key_twice(store: PageStore) -> None:
    put(store, range(4))
    found = read_all(store, [("full", [0, 1, 0]), ("full", [1, 9]), ("full", [0])])
    assert found == [[page_of(0), page_of(1), page_of(0)], [page_of(1), None], [page_of(0)]]


def test_a_limit_that_is_over_does_nothing(store: PageStore) -> None:
    over = Limit()
    over.cancel()
    batches = [to_write(pool, [1, 2]) for pool in PAGE_BYTES]
    assert exists_many(store, batches, over) == read_many(store, batches_to_read(), over)
    assert write_many(store, batches, over) == [[REFUSED] * 2] * 2
    assert exists_many(store, batches) == [[False] * 2] * 2


def batches_to_read() -> list[PoolBatch]:
    return [to_read(pool, [1, 2]) for pool in PAGE_BYTES]


def test_misuse_of_one_pool_is_an_error_of_the_call(store: PageStore) -> None:
    good, num_bytes = to_write("full", [1]), PAGE_BYTES["swa"]
    short = PoolBatch("swa", [key_of(1)], [memoryview(bytearray(num_bytes - 1))])
    for call in (read_many, write_many):
        with pytest.raises(StorageError, match=f"pool 'swa'.*position 0 is {num_bytes - 1} bytes"):
            call(store, [to_read("full", [1]) if call is read_many else good, short])
        with pytest.raises(StorageError, match=r"pool 'swa'.*1 keys but 0 pages"):
            call(store, [PoolBatch("full", []), PoolBatch("swa", [key_of(1)])])
    with pytest.raises(StorageError, match="pool 'swa': key at position 1 is 3 bytes"):
        exists_many(store, [good, PoolBatch("swa", [key_of(1), b"abc"])])
    assert write_many(store, [good])[0][0] is not REFUSED
    assert get(store, [1]) == [page_of(1)]


def test_a_closed_store_says_so(store: PageStore) -> None:
    store.close()
    for call in (exists_many, read_many, write_many):
        with pytest.raises(StorageError, match="closed"):
            call(store, batches_to_read())


def test_it_counts_as_calls_about_one_pool_do(store: PageStore) -> None:
    write_many(store, [to_write("full", range(4)), to_write("swa", [1])])
    write_many(store, [to_write("full", range(6)), to_write("swa", [1])])
    read_all(store, [("full", range(9)), ("swa", [1])])
    stats = store.stats()
    num_pieces = 2 if isinstance(store, PieceStore) else 1
    assert stats["num_written_pages"] == stats["num_pages"] == 7 * num_pieces
    assert stats["written_bytes"] == 6 * PAGE_BYTES["full"] + PAGE_BYTES["swa"]
    assert stats["num_read_pages"] == 7 * num_pieces
    assert stats["num_missed_pages"] == 3 * num_pieces


def test_threads_at_once(store: PageStore) -> None:
    """Half the pages of `swa` do not fit O_DIRECT: buffers are shared between the calls."""
    failures, start = [], threading.Barrier(4)

    def worker(seed: int) -> None:
        rng = random.Random(seed)
        start.wait()
        for _ in range(15):
            wanted = [(pool, rng.sample(range(20), 5)) for pool in rng.sample(POOLS, 3)]
            if rng.random() < 0.5:
                write_many(store, [to_write(*each) for each in wanted])
                continue
            for (pool, numbers), pages in zip(wanted, read_all(store, wanted), strict=True):
                for n, page in zip(numbers, pages, strict=True):
                    if page is not None and page != page_of(n, pool):
                        failures.append((seed, pool, n))

    threads = [threading.Thread(target=worker, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert not failures and not any(thread.is_alive() for thread in threads)


def test_which_stores_do_it_in_one_go(tmp_path) -> None:
    made = {name: make(tmp_path) for name, make in MAKERS.items()}
    assert {name for name, store in made.items() if isinstance(store, SeveralPools)} == {
        "segment",
        "fallback",
        "redis",
        "mooncake",
        "objects",
    }
    for store in made.values():
        store.close()


def test_a_fallback_asks_each_store_once() -> None:
    """It asked what it had just been told that the store lacks."""
    calls = []

    class Watched(FaultyStore):
        def _enter(self, call, limit=None):
            calls.append((self.seed, call))
            super()._enter(call, limit)

    stores = [Watched(MemoryStore(PAGE_BYTES)) for _ in range(2)]
    for seed, watched in enumerate(stores):
        watched.seed = seed
    store = FallbackStore(stores)
    assert write_many(store, [to_write("full", [1, 2])]) == [[NEW, NEW]]
    assert calls == [(0, "exists"), (0, "write_from"), (1, "exists"), (1, "write_from")]
    calls.clear()
    assert store.write_from(*to_write("full", [1, 2])) == [True, True]
    assert calls == [(0, "exists"), (1, "exists")]
    store.close()
