"""LocalStore on a bad day: a full disk, short reads and writes, bad sectors, a cold cache."""

import errno
import os
from pathlib import Path

import pytest
from store_tools import (
    BASE,
    PAGE_BYTES,
    RECORD_BYTES,
    SLOT_BYTES,
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

from hicache_ext.errors import StorageError
from hicache_ext.storage import Durability, LocalStore, segment


@pytest.fixture
def root(tmp_path) -> Path:
    return tmp_path / "store"


def refuse(number: int):
    def call(*args, **kwargs):
        raise OSError(number, os.strerror(number))

    return call


@pytest.mark.parametrize("call", ["pwritev", "write"])
def test_a_full_disk_makes_the_store_read_only(root: Path, monkeypatch, call: str) -> None:
    """Whether it is the page or its record that has no room."""
    store = open_store(root)
    put(store, [1])
    monkeypatch.setattr(os, call, refuse(errno.ENOSPC))
    assert put(store, [1, 2, 3]) == [True, False, False]
    monkeypatch.undo()
    assert isinstance(store.failure, StorageError) and "No space left" in str(store.failure)
    assert put(store, [1, 4]) == [True, False]
    stats = store.stats()
    assert stats["is_read_only"] == 1 and stats["num_write_errors"] == 3
    assert stats["num_written_pages"] == 1
    assert get_all(store, [1, 2]) == [page_of(1), None]
    assert store.remove("full", [key_of(1)]) == 1
    store.close()
    store = open_store(root)
    assert put(store, [2, 3]) == [True, True]
    assert get_all(store, [1, 2, 3]) == [None, page_of(2), page_of(3)]


def test_a_disk_that_fills_up_in_a_batch_keeps_what_was_written(root: Path, monkeypatch) -> None:
    monkeypatch.setattr(segment, "PIECE_BYTES", 2 * SLOT_BYTES)
    store, real, calls = open_store(root), os.pwritev, []

    def third_fails(fd, buffers, offset):
        calls.append(offset)
        return real(fd, buffers, offset) if len(calls) < 3 else refuse(errno.ENOSPC)()

    monkeypatch.setattr(os, "pwritev", third_fails)
    assert put(store, range(7)) == [True] * 4 + [False] * 3
    monkeypatch.undo()
    assert store.stats()["num_write_errors"] == 3 and store.failure is not None
    assert get_all(open_store(root), range(7)) == [page_of(i) for i in range(4)] + [None] * 3


@pytest.mark.parametrize("num_bytes", [1, RECORD_BYTES + 3, 3 * RECORD_BYTES - 1])
def test_an_append_that_stops_half_way_is_cut_to_whole_records(
    root: Path, monkeypatch, num_bytes: int
) -> None:
    """A reader in between has taken the records that are whole: they must stay."""
    store, reader, real = open_store(root), open_store(root), os.write
    put(store, [0])

    def part_then_fail(fd, data):
        monkeypatch.setattr(os, "write", refuse(errno.EINTR))  # passing: the store goes on
        return real(fd, data[:num_bytes])

    monkeypatch.setattr(os, "write", part_then_fail)
    assert put(store, [1, 2, 3]) == [False] * 3
    monkeypatch.undo()
    num_whole = num_bytes // RECORD_BYTES
    found = [page_of(i) if i <= num_whole else None for i in (1, 2, 3)]
    assert get_all(reader, [1, 2, 3]) == found == get_all(store, [1, 2, 3])
    assert put(store, [3, 2, 1, 4]) == [True] * 4
    for other in (reader, store, open_store(root)):
        assert get_all(other, range(5)) == [page_of(i) for i in range(5)]
        assert other.stats()["num_corrupt_pages"] == 0


def test_a_short_write_is_continued(root: Path, monkeypatch) -> None:
    store, whole = open_store(root), os.pwrite
    monkeypatch.setattr(os, "pwritev", lambda fd, b, offset: whole(fd, b[0][:100], offset))
    monkeypatch.setattr(os, "pwrite", lambda fd, data, offset: whole(fd, data[:1000], offset))
    assert put(store, [1, 2]) == [True, True]
    assert get_all(store, [1, 2]) == [page_of(1), page_of(2)]


def test_a_short_read_is_continued_page_by_page(root: Path, monkeypatch) -> None:
    store, whole = open_store(root), os.preadv
    put(store, range(4))

    def two_buffers(fd, buffers, offset):
        return whole(fd, buffers[:2], offset)

    monkeypatch.setattr(os, "preadv", two_buffers)
    assert get_all(store, range(4)) == [page_of(i) for i in range(4)]


def test_passing_trouble_is_false_for_the_page_and_no_more(root: Path, monkeypatch) -> None:
    store = open_store(root)
    put(store, [1])
    monkeypatch.setattr(os, "open", refuse(errno.EMFILE))
    assert get(store, 1) is None
    monkeypatch.undo()
    assert store.failure is None and store.stats()["num_read_errors"] == 1
    assert get(store, 1) == page_of(1)
    store.close()
    store = open_store(root)
    monkeypatch.setattr(os, "open", refuse(errno.EMFILE))
    assert put(store, [1, 2]) == [True, False]
    monkeypatch.undo()
    assert store.failure is None and store.stats()["num_write_errors"] == 1
    assert put(store, [2]) == [True] and get(store, 2) == page_of(2)


def test_an_unreadable_sector_is_a_miss_for_its_page_alone(root: Path, monkeypatch) -> None:
    store, real = open_store(root), os.preadv
    put(store, range(5))
    _, bad = slot_of(root, 2)

    def failing(fd, buffers, offset):
        if offset <= bad < offset + sum(map(len, buffers)):
            refuse(errno.EIO)()
        return real(fd, buffers, offset)

    monkeypatch.setattr(os, "preadv", failing)
    expected = [page_of(i) if i != 2 else None for i in range(5)]
    assert get_all(store, range(5)) == expected
    monkeypatch.undo()
    assert store.stats()["num_read_errors"] == 1
    assert store.exists("full", [key_of(2)]) == [False], "it would be asked for again and again"
    assert get_all(open_store(root), range(5)) == expected


def test_a_batch_is_read_in_few_calls(root: Path, monkeypatch) -> None:
    """Adjacent slots in one call, whatever the order in which they are asked for."""
    store, real, calls = open_store(root), os.preadv, []
    put(store, range(10))
    monkeypatch.setattr(os, "preadv", lambda *args: (calls.append(args), real(*args))[1])
    assert get_all(store, [3, 1, 2, 7, 3]) == [page_of(i) for i in (3, 1, 2, 7, 3)]
    offsets = sorted(offset // SLOT_BYTES for _, _, offset in calls)
    assert offsets == [1, 3, 7]


def test_pages_outside_the_page_cache(root: Path) -> None:
    store = open_store(root, durability=Durability.PAGE)
    num_pages = 3 * segment.PIECE_BYTES // SLOT_BYTES + 1
    put(store, range(num_pages))
    fd = os.open(only(root, "pages"), os.O_RDONLY)
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    os.close(fd)
    assert get_all(store, range(num_pages)) == [page_of(i) for i in range(num_pages)]


@pytest.mark.parametrize("durability", list(Durability))
def test_durability_syncs_before_it_says_yes(root: Path, monkeypatch, durability) -> None:
    store, calls = open_store(root, durability=durability), []
    for name in ("pwritev", "write", "fdatasync", "fsync"):
        real = getattr(os, name)

        def spy(fd, *args, real=real, name=name):
            suffix = os.readlink(f"/proc/self/fd/{fd}").rpartition(".")[2]
            calls.append((name, "folder" if "/" in suffix else suffix))
            return real(fd, *args)

        monkeypatch.setattr(os, name, spy)
    put(store, [1])
    put(store, [2])
    written = [("pwritev", "pages"), ("write", "index")]
    header = ("write", "index")
    if durability is Durability.NONE:
        assert calls == [header, *written, *written]
    else:
        synced = [written[0], ("fdatasync", "pages"), written[1], ("fdatasync", "index")]
        assert calls == [header, ("fsync", "folder"), *synced, *synced]


def test_descriptors_are_closed(root: Path, monkeypatch) -> None:
    def num_open() -> int:
        return len(os.listdir("/proc/self/fd"))

    before = num_open()
    store = open_store(root)
    num_opened = num_open()
    put(store, range(10))
    assert num_open() == num_opened + 2, "the segment it appends to"
    flip(*slot_of(root, 3), 0)
    for i in range(12):
        get(store, i)
    store.clear()
    assert num_open() == num_opened
    monkeypatch.setattr(segment, "SEGMENT_BYTES", 2 * SLOT_BYTES)
    put(store, range(9))
    one, two = open_store(root), open_store(root)
    assert put(one, [20]) == [True] and put(two, [21]) == [True]  # tries what others hold
    one.close()
    two.close()
    assert num_open() == num_opened + 2
    store.close()
    assert num_open() == before
    with pytest.raises(StorageError):
        LocalStore(root, {"full": BASE}, {"full": PAGE_BYTES + 1})
    assert num_open() == before
