"""LocalStores that share a folder: what one writes, removes and clears, the others see."""

import errno
import fcntl
import os
import shutil
from pathlib import Path

import pytest
from store_tools import (
    PAGE_BYTES,
    SLOT_BYTES,
    files,
    flip,
    get,
    get_all,
    key_of,
    only,
    open_store,
    page_of,
    put,
    slot_of,
)
from test_local_store_crash import NUM_KEYS, WRITE_FOR_EVER, start

from hicache_ext.errors import StorageError
from hicache_ext.storage import segment


@pytest.fixture
def root(tmp_path) -> Path:
    return tmp_path / "store"


def test_two_processes_write_while_we_read(root: Path) -> None:
    children = [start(root, WRITE_FOR_EVER.format(seed=seed, num_keys=NUM_KEYS)) for seed in (1, 2)]
    store = open_store(root)
    num_hits = 0
    for i in range(1500):
        page = get(store, i % NUM_KEYS)
        assert page in (None, page_of(i % NUM_KEYS))
        num_hits += page is not None
    for child in children:
        child.kill()
        child.communicate()
    assert num_hits > 0 and store.stats()["num_corrupt_pages"] == 0
    assert len(files(root, "index")) == 2, "two writers in one segment"


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
    for _ in range(6):  # segments have random names: both orders
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


def double(root: Path, tmp_path: Path, numbers) -> None:
    """Puts pages into `root` twice, as two writers do that see each other too late."""
    for name in ("store", "twin"):
        store = open_store(tmp_path / name)
        put(store, numbers)
        store.close()
    (folder,) = root.glob("full-*")
    for path in files(tmp_path / "twin", "pages") + files(tmp_path / "twin", "index"):
        shutil.copy(path, folder)


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


def test_slots_are_read_again_after_a_clear(root: Path) -> None:
    writer, reader = open_store(root), open_store(root)
    put(writer, [1, 2, 3])
    assert get(reader, 1) == page_of(1)
    reader.clear()
    assert not files(root, "pages") and not files(root, "index")
    assert get_all(reader, [1, 2]) == [None, None] == get_all(writer, [1, 2])
    assert reader.exists("full", [key_of(3)]) == [False] == writer.exists("full", [key_of(3)])
    assert put(writer, [3, 4]) == [True, True]  # in the slots of 1 and 2, of another segment
    assert get_all(reader, [1, 2, 3, 4]) == [None, None, page_of(3), page_of(4)]
    assert get_all(open_store(root), [3, 4]) == [page_of(3), page_of(4)], "into a cleared file"
    assert all(s.stats()["num_corrupt_pages"] == 0 for s in (writer, reader))
    assert all(s.stats()["num_read_errors"] == 0 for s in (writer, reader))


def test_a_clear_between_look_up_and_read_is_a_plain_miss(root: Path, monkeypatch) -> None:
    store, other = open_store(root), open_store(root)
    put(store, [1, 2])
    real = segment.open_pages

    def cleared_first(dir_fd, number):
        other.clear()
        return real(dir_fd, number)

    monkeypatch.setattr("hicache_ext.storage.batch_read.open_pages", cleared_first)
    assert get_all(store, [1, 2]) == [None, None]
    monkeypatch.undo()
    assert store.stats()["num_read_errors"] == store.stats()["num_corrupt_pages"] == 0
    assert not files(root, "index"), "tombstones for pages that are gone"
    assert put(store, [1]) == [True] and get(store, 1) == page_of(1)


def test_a_clear_that_fails_half_way_has_cleared(root: Path, monkeypatch) -> None:
    """The index goes first: what is left is collected at the next open."""
    store, real, names = open_store(root), os.unlink, []

    def only_one(name, **kwargs):
        names.append(name)
        if len(names) > 1:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        real(name, **kwargs)

    put(store, [1])
    monkeypatch.setattr(os, "unlink", only_one)
    with pytest.raises(StorageError, match=f"store {root}: clear: .*Input/output error"):
        store.clear()
    monkeypatch.undo()
    for other in (store, open_store(root)):
        assert other.exists("full", [key_of(1)]) == [False]
    assert not files(root, "index") and not files(root, "pages")


def test_a_segment_whose_writer_appended_until_a_moment_ago(root: Path, monkeypatch) -> None:
    """Adopted behind what it holds by now, not by when it was looked at."""
    other, store, real = open_store(root), open_store(root), segment.adopt_segment
    put(other, [1])

    def appended_first(*args):
        put(other, [2])
        other.close()
        return real(*args)

    monkeypatch.setattr("hicache_ext.storage.local_pool.adopt_segment", appended_first)
    assert put(store, [3]) == [True]
    assert len(files(root, "index")) == 1
    assert get_all(open_store(root), [1, 2, 3]) == [page_of(i) for i in (1, 2, 3)]


def test_a_new_segment_that_is_collected_before_it_is_locked(root: Path, monkeypatch) -> None:
    """Another store took the empty file for a dead writer's: a new one is begun."""
    store, real = open_store(root), fcntl.flock

    def collected_first(fd, how):
        monkeypatch.undo()
        only(root, "index").unlink()
        real(fd, how)

    monkeypatch.setattr(fcntl, "flock", collected_first)
    assert put(store, [1]) == [True]
    assert get(open_store(root), 1) == page_of(1)


def test_a_write_does_not_believe_its_memory(root: Path) -> None:
    one, two = open_store(root), open_store(root)
    put(one, [1])
    two.clear()
    assert put(one, [1]) == [True]
    assert get(one, 1) == page_of(1)


def test_segments_roll_over_and_the_last_is_gone_on_with(root: Path, monkeypatch) -> None:
    monkeypatch.setattr(segment, "SEGMENT_BYTES", 3 * SLOT_BYTES + 1)
    store = open_store(root)
    assert put(store, range(7)) == [True] * 7
    assert sorted(p.stat().st_size // SLOT_BYTES for p in files(root, "pages")) == [1, 3, 3]
    store.close()
    store = open_store(root)
    assert put(store, range(5, 10)) == [True] * 5
    assert sorted(p.stat().st_size // SLOT_BYTES for p in files(root, "pages")) == [1, 3, 3, 3]
    assert get_all(store, range(9, -1, -1)) == [page_of(i) for i in range(9, -1, -1)]
    store.clear()
    assert put(store, [1]) == [True] and get(open_store(root), 1) == page_of(1)


def test_a_segment_smaller_than_a_page(root: Path, monkeypatch) -> None:
    monkeypatch.setattr(segment, "SEGMENT_BYTES", 1)
    store = open_store(root)
    assert put(store, range(3)) == [True] * 3 and len(files(root, "pages")) == 3
    assert get_all(store, range(3)) == [page_of(i) for i in range(3)]


def test_a_store_that_only_reads_leaves_the_segment_to_others(root: Path) -> None:
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
