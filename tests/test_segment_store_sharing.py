"""SegmentStores that share a folder: what one writes, removes and clears, the others see."""

import shutil
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
from store_tools import (
    HEADER_BYTES,
    PAGE_BYTES,
    SLOT_BYTES,
    files,
    flip,
    get,
    get_all,
    key_of,
    only,
    open_store,
    overwrite,
    page_of,
    put,
    slot_of,
    start,
)
from waiting import PATIENCE_S

from hicache_ext import _C

NUM_KEYS = 200
WRITE_FOR_EVER = """
rng = random.Random({seed})
while True:
    numbers = rng.sample(range({num_keys}), 8)
    if rng.random() < 0.4:
        store.remove("full", [key_of(i) for i in numbers])
    else:
        assert all(put(store, numbers))
"""


@pytest.fixture
def root(tmp_path) -> Path:
    return tmp_path / "store"


def test_two_processes_write_while_we_read(root: Path) -> None:
    children = [start(root, WRITE_FOR_EVER.format(seed=seed, num_keys=NUM_KEYS)) for seed in (1, 2)]
    store = open_store(root)
    num_hits, i = 0, 0
    end_s = time.monotonic() + PATIENCE_S
    while i < 1500 or not num_hits or len(files(root, "index")) < 2:  # they begin when they may
        assert time.monotonic() < end_s
        page = get(store, i % NUM_KEYS)
        assert page in (None, page_of(i % NUM_KEYS))
        num_hits += page is not None
        i += 1
    for child in children:
        child.kill()
        child.communicate()
    assert store.stats()["num_corrupt_pages"] == 0
    # One for each writer, and none for us, who read pages that were overwritten meanwhile.
    assert len(files(root, "index")) == 2


def test_a_reader_follows_a_live_writer_page_by_page(root: Path) -> None:
    reader, writer = open_store(root), open_store(root)
    for i in range(20):
        assert reader.exists("full", [key_of(i)]) == [False]
        put(writer, [i])
        assert reader.exists("full", [key_of(i)]) == [True]
        assert get(reader, i) == page_of(i)
    assert reader.stats()["num_pages"] == 20


def test_exists_sees_what_another_store_wrote_and_removed(root: Path) -> None:
    one, two = open_store(root), open_store(root)
    put(one, [1, 2])
    keys = [key_of(1), key_of(2)]
    assert two.exists("full", keys) == [True, True]
    one.remove("full", keys[:1])
    assert get(two, 1) is None  # exists may have said yes; the read tells the truth
    assert two.exists("full", keys) == [False, True]
    assert put(two, [1]) == [True] and get(one, 1) == page_of(1)


def test_a_removal_by_another_store_is_kept_whatever_index_is_read_first(root: Path) -> None:
    for _ in range(6):  # shards have random names: both orders
        one, two = open_store(root), open_store(root)
        put(one, [1, 2])
        put(two, [3])
        assert two.remove("full", [key_of(1)]) == 1
        with_both = open_store(root)
        assert get_all(with_both, [1, 2, 3]) == [None, page_of(2), page_of(3)]
        assert with_both.stats()["num_corrupt_pages"] == 0
        put(one, [1])
        assert get(open_store(root), 1) == page_of(1)
        one.clear()
        one.close()
        two.close()


def double(root: Path, tmp_path: Path, numbers) -> None:
    """Puts pages into `root` twice, as two writers do that see each other too late."""
    for name in ("store", "twin"):
        store = open_store(tmp_path / name)
        put(store, numbers)
        store.close()
    (folder,) = root.glob("full-*")
    shard = only(tmp_path / "twin", "index").parent
    shutil.copytree(shard, folder / shard.name)


def test_two_writers_of_the_same_pages(root: Path, tmp_path) -> None:
    double(root, tmp_path, [1, 2])
    store = open_store(root)
    assert store.stats()["num_pages"] == 2
    assert get_all(store, [1, 2]) == [page_of(1), page_of(2)]
    assert store.remove("full", [key_of(1)]) == 1
    for reader in (store, open_store(root)):
        assert get_all(reader, [1, 2]) == [None, page_of(2)], "a copy outlived its removal"


def test_a_second_copy_stands_in_for_a_damaged_one(root: Path, tmp_path) -> None:
    double(root, tmp_path, [1])
    first = files(root, "pages")[0]
    flip(first, 0, 0)
    store = open_store(root)
    assert [get(store, 1), get(store, 1)].count(page_of(1)) >= 1
    flip(files(root, "pages")[1], 0, 0)
    assert get(store, 1) is None and store.stats()["num_corrupt_pages"] == 2
    assert store.exists("full", [key_of(1)]) == [False]


def test_slots_are_used_again_after_a_clear(root: Path) -> None:
    writer, reader = open_store(root), open_store(root)
    put(writer, [1, 2, 3])
    assert get(reader, 1) == page_of(1)
    reader.clear()
    assert get_all(reader, [1, 2]) == [None, None] == get_all(writer, [1, 2])
    assert reader.exists("full", [key_of(3)]) == [False] == writer.exists("full", [key_of(3)])
    assert put(writer, [3, 4]) == [True, True]
    assert get_all(reader, [1, 2, 3, 4]) == [None, None, page_of(3), page_of(4)]
    assert get_all(open_store(root), [1, 3, 4]) == [None, page_of(3), page_of(4)]
    for store in (writer, reader):
        assert store.stats()["num_corrupt_pages"] == store.stats()["num_read_errors"] == 0
    assert sum(path.stat().st_size for path in files(root, "pages")) == 1 << 20


def test_a_write_does_not_believe_its_memory(root: Path) -> None:
    one, two = open_store(root), open_store(root)
    put(one, [1])
    two.clear()
    assert put(one, [1]) == [True]
    assert get(one, 1) == page_of(1)


def test_segments_roll_over_and_the_last_is_gone_on_with(root: Path) -> None:
    options = {"segment_bytes": 3 * SLOT_BYTES + 1, "max_bytes": 9 * SLOT_BYTES}
    store = open_store(root, **options)
    assert put(store, range(7)) == [True] * 7
    assert [path.stat().st_size // SLOT_BYTES for path in files(root, "pages")] == [3, 3, 3]
    store.close()
    store = open_store(root, **options)
    assert put(store, range(5, 9)) == [True] * 4
    assert [path.stat().st_size // SLOT_BYTES for path in files(root, "pages")] == [3, 3, 3]
    assert get_all(store, range(8, -1, -1)) == [page_of(i) for i in range(8, -1, -1)]


def test_over_the_quota_the_oldest_go_and_a_chain_from_its_end(root: Path) -> None:
    store = open_store(root, max_bytes=8 * SLOT_BYTES + 5)
    put(store, range(4))
    put(store, range(10, 14))
    assert get_all(store, range(4)) == [page_of(i) for i in range(4)]  # used: now the younger
    assert put(store, [20, 21, 22]) == [True] * 3
    found = [page is not None for page in get_all(store, [10, 11, 12, 13, 0, 1, 2, 3])]
    assert found == [True] + [False] * 3 + [True] * 4
    stats = store.stats()
    assert stats["num_evicted_pages"] == 3 and stats["segment_bytes"] == 8 * SLOT_BYTES
    assert sum(path.stat().st_size for path in files(root, "pages")) == 8 * SLOT_BYTES


def test_a_batch_above_the_quota_keeps_its_first_pages(root: Path) -> None:
    store = open_store(root, max_bytes=4 * SLOT_BYTES)
    put(store, [0, 1])
    assert put(store, range(6)) == [True] * 4 + [False] * 2, "a parent went for its child"
    assert store.stats()["num_refused_pages"] == 2
    assert get_all(store, range(6)) == [page_of(i) for i in range(4)] + [None] * 2


def test_a_smaller_quota_gives_room_back_at_the_next_write(root: Path) -> None:
    store = open_store(root)
    put(store, range(20))
    store.close()
    store = open_store(root, max_bytes=5 * SLOT_BYTES)
    assert put(store, [30]) == [True]
    assert sum(path.stat().st_size for path in files(root, "pages")) == 5 * SLOT_BYTES
    numbers = [*range(20), 30]
    found = get_all(open_store(root), numbers)
    assert all(page in (None, page_of(i)) for page, i in zip(found, numbers, strict=True))
    assert sum(page is not None for page in found) == 5


def test_a_reader_that_is_behind_takes_no_recycled_slot_for_its_page(root: Path) -> None:
    writer, reader = open_store(root, max_bytes=2 * SLOT_BYTES), open_store(root)
    put(writer, [0])
    put(writer, [1])
    assert get_all(reader, [0, 1]) == [page_of(0), page_of(1)]
    for i in range(2, 40):
        put(writer, [i])
        assert get_all(reader, range(i + 1)) == [
            page_of(j) if j > i - 2 else None for j in range(i + 1)
        ]
    stats = reader.stats()
    assert stats["num_corrupt_pages"] == stats["num_read_errors"] == 0


def test_a_store_that_only_reads_leaves_the_shard_to_others(root: Path) -> None:
    writer = open_store(root)
    put(writer, [1])
    writer.close()
    reader = open_store(root)
    assert get(reader, 1) == page_of(1)
    other = open_store(root)
    put(other, [2])
    assert len(files(root, "index")) == 1 and get(reader, 2) == page_of(2)
    put(reader, [3])  # other holds it now
    assert len(files(root, "index")) == 2
    assert get_all(other, [1, 2, 3]) == [page_of(i) for i in (1, 2, 3)]


def test_misaligned_buffers(root: Path) -> None:
    store = open_store(root)
    arena = bytearray(3 * PAGE_BYTES + 9)
    starts = (1, PAGE_BYTES + 4, 2 * PAGE_BYTES + 7)
    views = [memoryview(arena)[at : at + PAGE_BYTES] for at in starts]
    for i, view in enumerate(views):
        view[:] = page_of(i)
    keys, expected = [key_of(i) for i in range(3)], bytes(arena)
    assert store.write_from("full", keys, views) == [True] * 3
    for view in views:
        view[:] = bytes(PAGE_BYTES)
    assert store.read_into("full", keys, views) == [True] * 3
    assert arena == expected, "wrote beside the pages"
    assert slot_of(root, 1) == (only(root, "pages"), SLOT_BYTES)


@pytest.mark.parametrize("call", ["read_into", "write_from"])
def test_a_buffer_cannot_be_freed_while_a_call_has_it(root: Path, call: str) -> None:
    """Not by releasing the view, nor by resizing what is behind it."""
    buffers = [bytearray(page_of(i)) for i in range(2)]
    views = [memoryview(buffer) for buffer in buffers]

    class Pages(Sequence):
        """The call has the first page when it asks for the second."""

        def __len__(self) -> int:
            return 2

        def __getitem__(self, i):
            if i == 1:
                with pytest.raises(BufferError):
                    views[0].release()
                with pytest.raises(BufferError):
                    buffers[0].clear()
            return views[i]

    store = open_store(root)
    assert put(store, [0, 1]) == [True, True]
    assert getattr(store, call)("full", [key_of(0), key_of(1)], Pages()) == [True, True]
    assert buffers == [page_of(0), page_of(1)]
    views[0].release()
    buffers[0].clear()  # it is over
    store.close()


def test_an_index_from_the_future_is_left_alone(root: Path) -> None:
    """A later version of its header, with the checksum that belongs to it: a miss, and another
    shard is written."""
    store = open_store(root)
    assert put(store, [1]) == [True]
    store.close()
    index = only(root, "index")
    header = bytearray(index.read_bytes()[:HEADER_BYTES])
    header[8:12] = (99).to_bytes(4, "little")
    header[80:88] = _C.xxh3_128_digest(bytes(header[:80]))[8:][::-1]
    overwrite(index, 0, bytes(header))
    content = index.read_bytes()
    store = open_store(root)
    assert get(store, 1) is None
    assert put(store, [1, 2]) == [True, True] and get_all(store, [1, 2]) == [page_of(1), page_of(2)]
    store.close()
    assert index.read_bytes() == content and len(files(root, "index")) == 2
