"""What users of page stores have today: one file per page through Python, and LMDB."""

import os
import random
from collections.abc import Callable, Sequence
from pathlib import Path

import lmdb

NUM_PER_PREFETCH = 128  # pages that SGLang reads at a time
NUM_PER_COMMIT = 32  # pages of a transaction; more of them were no faster


def drop_from_cache(path: Path) -> None:
    """Of the kernel, once the bytes are on the disk."""
    fd = os.open(path, os.O_RDONLY)
    os.fdatasync(fd)
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    os.close(fd)


def disk_bytes() -> int:
    """That this process has read from disks so far."""
    with open("/proc/self/io") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("read_bytes"))


class Cold:
    """A measure whose bytes are dropped from the page cache first; keeps how many came from the
    disk all the same, of those that it moved: 1.0 or more if dropping worked.
    """

    def __init__(
        self, drop: Callable[[], None], measure: Callable[[], float], num_bytes: int
    ) -> None:
        self._drop, self._measure, self._num_bytes = drop, measure, num_bytes
        self.disk_shares: list[float] = []

    def __call__(self) -> float:
        self._drop()
        before = disk_bytes()
        value = self._measure()
        self.disk_shares.append((disk_bytes() - before) / self._num_bytes)
        return value


class PageFiles:
    """One file for each page as SGLang's HiCacheFile has them, without a checksum: written under
    another name, then os.replace; read in batches of 128 as its prefetch does (cache_controller.py,
    _generic_page_get): a zeroed page of its own for each, all files, then a copy into the host
    pool. Here bytearray stands for torch.zeros, which costs no less.
    """

    def __init__(self, folder: Path, pages: Sequence[memoryview], num_pages: int) -> None:
        folder.mkdir()
        self._folder, self._pages, self._num_written = str(folder), pages, 0
        self._page_bytes = len(pages[0])
        self._names: list[str] = []
        for _ in range(num_pages):
            self._write(is_durable=False)
        self._rng = random.Random(4)

    def replace(self, num_pages: int) -> int:
        """So many new pages, durable; each takes the place of an old one."""
        for old in self._names[:num_pages]:
            os.unlink(old)
            self._write(is_durable=True)
        del self._names[:num_pages]
        folder = os.open(self._folder, os.O_RDONLY)
        os.fsync(folder)
        os.close(folder)
        return num_pages * self._page_bytes

    def read(self) -> int:
        names = self._rng.sample(self._names, len(self._names))
        batch = min(NUM_PER_PREFETCH, len(self._pages))
        for first in range(0, len(names), batch):
            some = names[first : first + batch]
            fresh = [bytearray(self._page_bytes) for _ in some]
            for name, page in zip(some, fresh, strict=True):
                self._read(name, page)
            for page, target in zip(fresh, self._pages, strict=False):
                target[:] = page
        return len(names) * self._page_bytes

    def read_in_place(self) -> int:
        """The least that a loop over files can do: straight into the host pool."""
        names = self._rng.sample(self._names, len(self._names))
        for i, name in enumerate(names):
            self._read(name, self._pages[i % len(self._pages)])
        return len(names) * self._page_bytes

    def cold(self, measure: Callable[[], float]) -> Cold:
        def drop() -> None:
            for name in self._names:
                drop_from_cache(Path(name))

        return Cold(drop, measure, len(self._names) * self._page_bytes)

    def _read(self, name: str, page: bytearray | memoryview) -> None:
        with open(name, "rb", buffering=0) as file:
            assert file.readinto(page) == len(page)

    def _write(self, *, is_durable: bool) -> None:
        name = f"{self._folder}/{self._num_written}.bin"
        with open(name + ".tmp", "wb", buffering=0) as file:
            file.write(self._pages[self._num_written % len(self._pages)])
            if is_durable:
                os.fsync(file.fileno())
        os.replace(name + ".tmp", name)
        self._num_written += 1
        self._names.append(name)


class LmdbPages:
    """The same pages in one LMDB, copied into the caller's page as a store has to. With readahead:
    without it a cold page is many small reads, and ten times slower.
    """

    def __init__(self, folder: Path, pages: Sequence[memoryview], num_pages: int) -> None:
        folder.mkdir()
        self._folder, self._pages = folder, pages
        self._size = 2 * num_pages * len(pages[0]) + (64 << 20)
        rng = random.Random(5)
        self._keys = [rng.randbytes(32) for _ in range(num_pages)]
        self._env = self._open()
        for first in range(0, num_pages, NUM_PER_COMMIT):
            with self._env.begin(write=True) as transaction:
                for key in self._keys[first : first + NUM_PER_COMMIT]:
                    transaction.put(key, pages[0])
        self._rng = rng

    def read(self) -> int:
        page = self._pages[0]
        with self._env.begin(buffers=True) as transaction:
            for key in self._rng.sample(self._keys, len(self._keys)):
                page[:] = transaction.get(key)
        return len(self._keys) * len(page)

    def cold(self, measure: Callable[[], float]) -> Cold:
        def drop() -> None:
            self._env.close()  # what is mapped is not dropped
            drop_from_cache(self._folder / "data.mdb")
            self._env = self._open()

        return Cold(drop, measure, len(self._keys) * len(self._pages[0]))

    def close(self) -> None:
        self._env.close()

    def _open(self) -> lmdb.Environment:
        return lmdb.open(str(self._folder), map_size=self._size)
