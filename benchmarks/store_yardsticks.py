"""What users of page stores have today: one file per page through Python, and LMDB."""

import os
import random
from collections.abc import Callable, Sequence
from pathlib import Path

import lmdb

NUM_PER_COMMIT = 32  # pages of a transaction; more of them were no faster


def drop_from_cache(path: Path) -> None:
    """Of the kernel, once the bytes are on the disk."""
    fd = os.open(path, os.O_RDONLY)
    os.fdatasync(fd)
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    os.close(fd)


class PageFiles:
    """One file for each page as SGLang's HiCacheFile has them: written under another name, then
    os.replace; read into a page of its own, then copied. No checksum.
    """

    def __init__(self, folder: Path, pages: Sequence[memoryview], num_pages: int) -> None:
        folder.mkdir()
        self._folder, self._pages, self._num_written = str(folder), pages, 0
        self._names: list[str] = []
        for _ in range(num_pages):
            self._write(is_durable=False)
        self._bounce = bytearray(len(pages[0]))
        self._rng = random.Random(4)

    def replace(self, num_pages: int) -> int:
        """So many new pages, durable; each takes the place of an old one."""
        for old in self._names[:num_pages]:
            os.unlink(old)
            self._write(is_durable=True)
        del self._names[:num_pages]
        return num_pages * len(self._pages[0])

    def read(self) -> int:
        for name in self._rng.sample(self._names, len(self._names)):
            with open(name, "rb", buffering=0) as file:
                assert file.readinto(self._bounce) == len(self._bounce)
            self._pages[0][:] = self._bounce
        return len(self._names) * len(self._pages[0])

    def cold(self, measure: Callable[[], float]) -> Callable[[], float]:
        def dropped() -> float:
            for name in self._names:
                drop_from_cache(Path(name))
            return measure()

        return dropped

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

    def cold(self, measure: Callable[[], float]) -> Callable[[], float]:
        def dropped() -> float:
            self._env.close()  # what is mapped is not dropped
            drop_from_cache(self._folder / "data.mdb")
            self._env = self._open()
            return measure()

        return dropped

    def close(self) -> None:
        self._env.close()

    def _open(self) -> lmdb.Environment:
        return lmdb.open(str(self._folder), map_size=self._size)
