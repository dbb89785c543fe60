"""LocalStore: checksummed pages in a few large files of a folder that processes may share."""

import errno
import os
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import StorageError
from .folders import open_namespace, open_root
from .index import PageFormat
from .limit import Limit, is_over
from .local_pool import LocalPool
from .namespace import StoreNamespace
from .protocol import STAT_NAMES, Capabilities, check_keys, check_page_bytes, check_pages
from .segment import Durability

if TYPE_CHECKING:  # a store needs neither numpy nor torch
    from ..layout import LayoutSpec

# A device that answers so does not get better by trying every page: the store turns read-only.
_FATAL_WRITE_ERRNOS = {
    errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS, errno.EACCES, errno.EPERM,
}  # fmt: skip
_STATS = (*STAT_NAMES, "num_corrupt_pages", "num_read_errors", "num_write_errors", "is_read_only")


class LocalStore:
    """A PageStore over a folder that only this user may write. Several processes may share it.

    A batch is appended to a segment file, so that it is read in long runs, straight into the
    caller's pages and on the caller's thread; each page's checksum is verified. A page that is
    corrupt, truncated or another key's is a miss, is counted, and is dropped. Page-level trouble
    never raises: where the disk is full or failing, write_from returns False and the store is
    read-only from then on (`failure` says why). There is no quota, and the room of removed pages
    comes back with clear().
    """

    capabilities = Capabilities(
        zero_copy=True, atomic_batch=False, quota=False, persistent=True, shared=True
    )

    @classmethod
    def for_pools(
        cls,
        root: str | os.PathLike[str],
        specs: "Mapping[str, LayoutSpec]",
        *,
        model: str,
        revision: str,
        dtype: str,
        shard: str = "0/1",
    ) -> "LocalStore":
        """A store for host pools of these layouts: `model` and `revision` name the weights,
        `dtype` the numbers in the pages, `shard` this rank's part of the heads (StoreNamespace).
        """
        namespaces = {
            name: StoreNamespace(
                model, revision, dtype, spec.digest_fields(), spec.page_size, shard
            )
            for name, spec in specs.items()
        }
        sizes = {name: spec.page_bytes for name, spec in specs.items()}
        return cls(root, namespaces, sizes)

    def __init__(
        self,
        root: str | os.PathLike[str],
        namespaces: Mapping[str, StoreNamespace],
        page_bytes: Mapping[str, int],
        *,
        durability: Durability = Durability.NONE,
    ) -> None:
        """Open or create `root`; every pool of `page_bytes` has its namespace in `namespaces`.

        StorageError, with path and reason, for a folder that is not writable, is no folder, is
        another user's, or has another format or layout; also where the extra `storage` (xxhash) is
        not installed.
        """
        sizes = check_page_bytes(page_bytes)
        if set(sizes) != set(namespaces):
            raise StorageError(f"pools {sorted(sizes)} but namespaces for {sorted(namespaces)}")
        self.root = Path(root)
        self.failure: StorageError | None = None
        self._durability = durability
        self._pools: dict[str, LocalPool] = {}
        self._idle = threading.Condition()
        self._num_calls = 0
        self._is_closed = False
        self._root_fd = open_root(self.root)
        try:
            for pool, num_bytes in sizes.items():
                self._pools[pool] = self._open_pool(pool, namespaces[pool], num_bytes)
        except BaseException:
            self._release()
            raise

    def exists(self, pool: str, keys: Sequence[bytes], limit: Limit | None = None) -> list[bool]:
        check_keys(pool, keys)
        with self._call(pool) as held:
            return [False] * len(keys) if held is None or is_over(limit) else held.has(keys)

    def read_into(
        self,
        pool: str,
        keys: Sequence[bytes],
        pages: Sequence[memoryview],
        limit: Limit | None = None,
    ) -> list[bool]:
        with self._call(pool) as held:
            if held is None:
                return [False] * len(keys)
            num_bytes = held.format.page_bytes
            check_pages(pool, keys, pages, num_bytes, "read")
            results = [False] * len(keys) if is_over(limit) else held.read(keys, pages)
            num_read = sum(results)
            held.count("num_read_pages", num_read)
            held.count("num_missed_pages", len(keys) - num_read)
            held.count("read_bytes", num_read * num_bytes)
        return results

    def write_from(
        self,
        pool: str,
        keys: Sequence[bytes],
        pages: Sequence[memoryview],
        limit: Limit | None = None,
    ) -> list[bool]:
        with self._call(pool) as held:
            if held is None:
                return [False] * len(keys)
            check_pages(pool, keys, pages, held.format.page_bytes, "write")
            firsts = dict(zip(reversed(keys), reversed(pages), strict=True))
            items = {key: firsts[key] for key in keys}  # adjacent pages lie in adjacent slots
            if self.failure is None and not is_over(limit):
                stored, error = held.write(items, self._durability)
                if error is not None and error.errno in _FATAL_WRITE_ERRNOS:
                    self.failure = StorageError(f"store {self.root} is read-only: {error.strerror}")
            else:
                stored = {key for key in items if held.has([key])[0]}
            held.count("num_write_errors", len(items) - len(stored))
            return [key in stored for key in keys]

    def remove(self, pool: str, keys: Sequence[bytes]) -> int:
        check_keys(pool, keys)
        with self._call(pool) as held:
            return 0 if held is None else held.drop(keys)

    def clear(self) -> None:
        """StorageError if the file system refuses to remove a file."""
        with self._call(""):
            try:
                for held in self._pools.values():
                    held.clear()
            except OSError as error:
                raise StorageError(f"store {self.root}: clear: {error}") from error

    def stats(self) -> dict[str, int]:
        """STAT_NAMES and: num_corrupt_pages (dropped), num_read_errors, num_write_errors (pages
        that the file system refused, or that came after it did so for good), is_read_only (0, 1).
        """
        totals = dict.fromkeys(_STATS, 0)
        for held in self._pools.values():
            for name, number in held.totals().items():
                totals[name] += number
        totals["is_read_only"] = int(self.failure is not None)
        return totals

    def close(self) -> None:
        with self._idle:
            if self._is_closed:
                return
            self._is_closed = True
            self._idle.wait_for(lambda: self._num_calls == 0)
        self._release()

    @contextmanager
    def _call(self, pool: str) -> Iterator[LocalPool | None]:
        """The pool, if there is one; close() waits for the end of the block."""
        with self._idle:
            if self._is_closed:
                raise StorageError(f"store {self.root} is closed")
            self._num_calls += 1
        try:
            yield self._pools.get(pool)
        finally:
            with self._idle:
                self._num_calls -= 1
                self._idle.notify_all()

    def _open_pool(self, pool: str, namespace: StoreNamespace, page_bytes: int) -> LocalPool:
        page_format = PageFormat(pool, namespace.digest(), page_bytes)
        dir_fd, path = open_namespace(self._root_fd, self.root, pool, namespace, page_bytes)
        try:
            return LocalPool(dir_fd, page_format)
        except OSError as error:
            os.close(dir_fd)
            raise StorageError(f"store {path}: {error}") from error

    def _release(self) -> None:
        for held in self._pools.values():
            held.close()
        os.close(self._root_fd)
