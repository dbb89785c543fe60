"""LocalStore on a bad day: a full disk, short writes, unreadable sectors, no page cache."""

import errno
import os
from pathlib import Path

import pytest
from test_local_store import (
    BASE,
    PAGE_BYTES,
    damage,
    get,
    key_of,
    open_store,
    page_file,
    page_of,
    put,
)

from hicache_ext.errors import StorageError
from hicache_ext.storage import Durability, LocalStore


@pytest.fixture
def root(tmp_path) -> Path:
    return tmp_path / "store"


def test_a_full_disk_makes_the_store_read_only(root: Path, monkeypatch) -> None:
    store = open_store(root)
    put(store, [1])

    def no_space(fd, buffers):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "writev", no_space)
    assert put(store, [1, 2, 3]) == [True, False, False]
    monkeypatch.undo()
    assert isinstance(store.failure, StorageError) and "No space left" in str(store.failure)
    assert put(store, [1, 4]) == [True, False]
    stats = store.stats()
    assert stats["is_read_only"] == 1 and stats["num_write_errors"] == 3
    assert get(store, 1) == page_of(1) and get(store, 2) is None
    assert not list(root.rglob(".*")), "a temporary file is left"
    assert store.remove("full", [key_of(1)]) == 1


def test_a_short_write_is_continued(root: Path, monkeypatch) -> None:
    store = open_store(root)
    whole = os.writev
    monkeypatch.setattr(os, "writev", lambda fd, buffers: whole(fd, [buffers[0][:100]]))
    monkeypatch.setattr(os, "write", lambda fd, data: whole(fd, [bytes(data[:1000])]))
    assert put(store, [1]) == [True]
    assert get(store, 1) == page_of(1)


def test_passing_trouble_is_false_for_the_page_and_no_more(root: Path, monkeypatch) -> None:
    store = open_store(root)
    put(store, [1])

    def too_many(*args, **kwargs):
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    monkeypatch.setattr(os, "open", too_many)
    assert put(store, [2]) == [False] and get(store, 1) is None
    monkeypatch.undo()
    assert store.failure is None and store.stats()["num_read_errors"] == 1
    assert put(store, [2]) == [True] and get(store, 1) == page_of(1)


def test_an_unreadable_sector_is_a_miss(root: Path, monkeypatch) -> None:
    store = open_store(root)
    put(store, [1])

    def failing(fd, buffers, offset, flags=0):
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "preadv", failing)
    assert get(store, 1) is None
    monkeypatch.undo()
    assert store.stats()["num_read_errors"] == 1
    assert store.exists("full", [key_of(1)]) == [False], "it would be asked for again and again"


def test_a_file_system_without_non_blocking_reads(root: Path, monkeypatch) -> None:
    store = open_store(root)
    put(store, range(5))
    whole = os.preadv

    def no_flags(fd, buffers, offset, flags=0):
        if flags:
            raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))
        return whole(fd, buffers, offset)

    monkeypatch.setattr(os, "preadv", no_flags)
    assert [get(store, i) for i in range(5)] == [page_of(i) for i in range(5)]


def test_pages_outside_the_page_cache(root: Path) -> None:
    store = open_store(root, durability=Durability.PAGE)
    put(store, range(70))  # more than are awaited at a time
    for i in range(70):
        fd = os.open(page_file(root, i), os.O_RDONLY)
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(fd)
    buffers = [bytearray(PAGE_BYTES) for _ in range(70)]
    keys = [key_of(i) for i in range(70)]
    assert all(store.read_into("full", keys, [memoryview(b) for b in buffers]))
    assert [bytes(b) for b in buffers] == [page_of(i) for i in range(70)]


@pytest.mark.parametrize("durability", list(Durability))
def test_durability_syncs_before_it_says_yes(root: Path, monkeypatch, durability) -> None:
    store, synced = open_store(root, durability=durability), []
    for name in ("fdatasync", "fsync", "rename"):
        real = getattr(os, name)

        def spy(*args, real=real, name=name, **kwargs):
            synced.append(name)
            return real(*args, **kwargs)

        monkeypatch.setattr(os, name, spy)
    put(store, [1])
    in_order = ["fdatasync", "rename", "fsync"]
    assert synced == (in_order if durability is Durability.PAGE else ["rename"])


def test_descriptors_are_closed(root: Path) -> None:
    def num_open() -> int:
        return len(os.listdir("/proc/self/fd"))

    before = num_open()
    store = open_store(root)
    num_opened = num_open()
    put(store, range(10))
    damage(page_file(root, 3), "truncated")
    for i in range(12):
        get(store, i)
    assert num_open() == num_opened
    store.close()
    assert num_open() == before
    with pytest.raises(StorageError):
        LocalStore(root, {"full": BASE}, {"full": PAGE_BYTES + 1})
    assert num_open() == before
