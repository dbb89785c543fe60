"""The pages of one pool of a LocalStore: reads, verifies, writes and drops files of one folder."""

import errno
import os
import threading
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from pathlib import Path

from .folders import Writer, remove_pages
from .page_file import (
    HEADER_BYTES,
    Durability,
    PageFormat,
    has_page,
    open_page,
    page_path,
    publish_page,
    unlink_if_there,
)

_MAX_LATE_PAGES = 64  # files a thread holds open while the kernel fetches them
# Trouble of this process or moment (too many open files, no memory), not of the page.
_PASSING_ERRNOS = {errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EINTR}


class LocalPool:
    """Every method is thread-safe. `dir_fd` is the namespace folder, owned by this object."""

    def __init__(self, dir_fd: int, path: Path, page_format: PageFormat, keys: set[bytes]) -> None:
        self.format = page_format
        self.keys = keys  # what the scan at open and our own calls saw; other processes write too
        self._counters: Counter[str] = Counter()
        self._dir_fd = dir_fd
        self._path = path
        self._lock = threading.Lock()
        self._fast_flags = os.RWF_NOWAIT

    def count(self, name: str, number: int = 1) -> None:
        with self._lock:
            self._counters[name] += number

    def totals(self) -> dict[str, int]:
        with self._lock:
            return dict(self._counters)

    def has(self, key: bytes) -> bool:
        """From memory, or by a stat: the page may be another process's."""
        return key in self.keys or self.has_file(key)

    def has_file(self, key: bytes) -> bool:
        """Ask the disk, and remember the answer: another process may have written or dropped it."""
        if not has_page(self._dir_fd, key, self.format.file_bytes):
            self.keys.discard(key)
            return False
        self.keys.add(key)
        return True

    def drop(self, key: bytes) -> bool:
        self.keys.discard(key)
        return unlink_if_there(self._dir_fd, page_path(key))

    def clear(self) -> None:
        remove_pages(self._dir_fd, self._path)
        self.keys.clear()

    def close(self) -> None:
        os.close(self._dir_fd)

    def write(self, key: bytes, page: memoryview, writer: Writer, durability: Durability) -> None:
        """Publish a page; OSError if the file system refuses."""
        header = self.format.header(key, page)
        publish_page(self._dir_fd, writer.temp_name(), key, header, page, durability)
        self.keys.add(key)

    def read(
        self,
        keys: Sequence[bytes],
        pages: Sequence[memoryview],
        results: list[bool],
        turns: Iterator[int],
    ) -> None:
        """Read and verify pages[i] for every i that `turns` yields; results[i] tells how it went.

        What lies in the page cache is taken at once. The non-blocking attempt starts the kernel's
        read-ahead for the others, which are awaited afterwards: a cold batch is one deep queue.
        """
        late: deque[tuple[int, int]] = deque()
        header = bytearray(HEADER_BYTES)

        def settle_oldest() -> None:
            i, fd = late[0]
            results[i] = self._wait_for(fd, keys[i], header, pages[i])
            os.close(late.popleft()[1])

        try:
            for i in turns:
                fd = self._open(keys[i])
                if fd < 0:
                    continue
                if self._is_cached(fd, header, pages[i]):
                    os.close(fd)
                    results[i] = self._is_genuine(keys[i], header, pages[i])
                    continue
                late.append((i, fd))
                if len(late) >= _MAX_LATE_PAGES:
                    settle_oldest()
            while late:
                settle_oldest()
        finally:
            for _, fd in late:
                os.close(fd)

    def _open(self, key: bytes) -> int:
        try:
            return open_page(self._dir_fd, key)
        except FileNotFoundError:
            self.keys.discard(key)
        except OSError as error:
            self._read_failed(key, error)
        return -1

    def _is_cached(self, fd: int, header: bytearray, page: memoryview) -> bool:
        """Read without waiting for the disk; whether that gave the whole file."""
        try:
            num_bytes = os.preadv(fd, [header, page], 0, self._fast_flags)
        except OSError as error:
            if error.errno == errno.EOPNOTSUPP:
                self._fast_flags = 0  # this file system cannot tell: wait from now on
            return False  # not cached, or failing: waiting for it will tell
        return num_bytes == self.format.file_bytes

    def _wait_for(self, fd: int, key: bytes, header: bytearray, page: memoryview) -> bool:
        try:
            num_bytes = os.preadv(fd, [header, page], 0)
        except OSError as error:
            self._read_failed(key, error)
            return False
        if num_bytes < self.format.file_bytes:
            header[:] = bytes(HEADER_BYTES)  # truncated: the rest of the buffers is older
        return self._is_genuine(key, header, page)

    def _is_genuine(self, key: bytes, header: bytearray, page: memoryview) -> bool:
        if header == self.format.header(key, page):
            self.keys.add(key)
            return True
        self.count("num_corrupt_pages")
        self.drop(key)
        return False

    def _read_failed(self, key: bytes, error: OSError) -> None:
        self.count("num_read_errors")
        if error.errno not in _PASSING_ERRNOS:
            self.drop(key)  # a link, a folder in its place, a bad sector: never this one again
