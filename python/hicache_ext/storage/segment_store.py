"""SegmentStore: checksummed pages in a few large files of a folder that processes may share."""

import hashlib
import os
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict

from ..errors import StorageError
from .calls import OpenCalls
from .folders import open_namespace, open_root
from .limit import Limit, is_over
from .namespace import StoreNamespace
from .protocol import Capabilities, check_keys, check_namespaces, check_page_bytes
from .several import OneOfSeveral, PageWrite, PoolBatch, fates_of

if TYPE_CHECKING:  # a store needs neither numpy nor torch
    from .. import _C
    from ..layout import LayoutSpec

    _Part = tuple[_C.PagePool, Sequence[bytes], Sequence[memoryview]]

SEGMENT_BYTES = 1 << 30
SLOT_ALIGN_BYTES = 4096
_NO_QUOTA = 2**64 - 1


class _Limit(TypedDict):
    deadline_ns: int
    cancelled: bytearray | None


class Durability(Enum):
    """When a written page survives a power loss; a killed process loses nothing in any mode."""

    NONE = "none"  # when the kernel gets round to it; a torn page is found by its checksum
    BATCH = "batch"  # before write_from returns: one sync for all pages of the call
    PAGE = "page"  # likewise, page by page: what a crash interrupts has kept its first pages


class SegmentStore(OneOfSeveral):
    """A PageStore over a folder that only this user may write. Several processes may share it:
    each writes its own shard, and all read all shards.

    A batch lies in adjacent slots and is read straight into the caller's pages where these begin at
    4 KiB and are multiples of it, through io_uring around the page cache where the machine allows
    it (`report`); each page's checksum is verified. A page that is corrupt, truncated or another
    key's is a miss, is counted, and is dropped. Page-level trouble never raises: where the disk is
    full or failing, write_from returns False and the store is read-only from then on (`failure`
    says why). Over `max_bytes` the pages that were not used for longest go, the last of a chain
    first: keys of a batch are in the order of their chain. Slots and files are used again, and no
    file is ever removed. Native, and the GIL is released. Not usable in a forked child.
    """

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
        durability: Durability = Durability.NONE,
        max_bytes: int | Mapping[str, int] | None = None,
    ) -> "SegmentStore":
        """A store for host pools of these layouts: `model` and `revision` name the weights,
        `dtype` the numbers in the pages, `shard` this rank's part of the heads (StoreNamespace).
        A page is one object, for ranks of this size alone: store_by_heads() cuts it for others.
        """
        namespaces = {
            name: StoreNamespace(
                model, revision, dtype, spec.digest_fields(), spec.page_size, shard
            )
            for name, spec in specs.items()
        }
        sizes = {name: spec.page_bytes for name, spec in specs.items()}
        return cls(root, namespaces, sizes, durability=durability, max_bytes=max_bytes)

    def __init__(
        self,
        root: str | os.PathLike[str],
        namespaces: Mapping[str, StoreNamespace],
        page_bytes: Mapping[str, int],
        *,
        durability: Durability = Durability.NONE,
        max_bytes: int | Mapping[str, int] | None = None,
        segment_bytes: int = SEGMENT_BYTES,
        engine: "_C.IoEngine | None" = None,
    ) -> None:
        """Open or create `root`; every pool of `page_bytes` has its namespace in `namespaces`.

        `max_bytes` bounds the segments that this store writes (its indexes, at most 0.2 KB for a
        page, come on top): by pool, or one number for all of them, of which every pool gets room
        for the same number of pages. `segment_bytes` is the size of new files. `engine` is shared
        with other stores. StorageError, with path and reason, for a folder that is not writable, is
        no folder, is another user's, or has another format or layout; for a quota below one page
        and a page larger than a segment.
        """
        from .. import (
            _C,  # not at module level: the pure-Python parts of this package need no build
        )

        sizes = check_page_bytes(page_bytes)
        check_namespaces(sizes, namespaces)
        quotas = _quotas(sizes, max_bytes)
        self.root = Path(root)
        self.capabilities = Capabilities(
            zero_copy=True,
            atomic_batch=False,
            quota=max_bytes is not None,
            persistent=True,
            shared=True,
        )
        self._engine = engine or _C.IoEngine()
        self._pools: dict[str, _C.PagePool] = {}
        self._paths: dict[str, Path] = {}
        self._calls = OpenCalls(f"store {self.root}")
        self._stats_lock = threading.Lock()  # of the pools' last answer, and of their end
        self._last_stats: dict[str, int] | None = None
        root_fd = open_root(self.root)
        try:
            for pool, num_bytes in sizes.items():
                options = {"max_bytes": quotas[pool], "segment_bytes": segment_bytes}
                mode = _C.PoolDurability.__members__[durability.name]
                self._open_pool(root_fd, pool, namespaces[pool], num_bytes, mode, options)
        except BaseException:
            self._release()
            raise
        finally:
            os.close(root_fd)

    @property
    def report(self) -> dict[str, str]:
        """Which I/O engine was chosen, and why not a better one."""
        return self._engine.report

    @property
    def failure(self) -> StorageError | None:
        """Why the store became read-only; None while it is not."""
        for name, pool in self._pools.items():
            if number := pool.failure:
                reason = os.strerror(number)
                return StorageError(f"store {self._paths[name]} is read-only: {reason}")
        return None

    def exists_many(
        self, batches: Sequence[PoolBatch], limit: Limit | None = None
    ) -> list[list[bool]]:
        return [self._exists(batch, limit) for batch in batches]

    def read_many(
        self, batches: Sequence[PoolBatch], limit: Limit | None = None
    ) -> list[list[bool]]:
        """All pools in one submission."""
        from .. import _C

        results = [[False] * len(batch.keys) for batch in batches]
        with self._calls.one():
            known, parts = self._known(batches)
            for i, told in zip(known, _C.read_pools(parts, **_native(limit)), strict=True):
                results[i] = told
        return results

    def write_many(
        self, batches: Sequence[PoolBatch], limit: Limit | None = None
    ) -> list[list[PageWrite]]:
        """All pools in one submission, but for Durability.PAGE."""
        from .. import _C

        fates = [[PageWrite.REFUSED] * len(batch.keys) for batch in batches]
        with self._calls.one():
            known, parts = self._known(batches)
            for i, told in zip(known, _C.write_pools(parts, **_native(limit)), strict=True):
                fates[i] = fates_of(*told)
        return fates

    def remove(self, pool: str, keys: Sequence[bytes]) -> int:
        with self._call(pool) as held:
            if held is None:
                check_keys(pool, keys)
                return 0
            return held.remove(keys)

    def clear(self) -> None:
        """In every process. StorageError if the file system refuses to be told."""
        with self._call(""):
            for name, held in self._pools.items():
                if number := held.clear():
                    raise StorageError(f"store {self._paths[name]}: clear: {os.strerror(number)}")

    def stats(self) -> dict[str, int]:
        """STAT_NAMES and: num_corrupt_pages (dropped), num_read_errors, num_write_errors (pages
        that the file system refused, or that came after it did so for good), num_evicted_pages,
        num_refused_pages (the quota was in use, all of it), segment_bytes (on the disk, of what
        this store writes), table_bytes (of memory), is_read_only (0, 1).
        """
        with self._stats_lock:
            return self._totals() if self._last_stats is None else dict(self._last_stats)

    def close(self) -> None:
        if self._calls.close():
            with self._stats_lock:
                self._last_stats = self._totals()
                self._release()

    def _exists(self, batch: PoolBatch, limit: Limit | None) -> list[bool]:
        with self._call(batch.pool) as held:
            if held is None or is_over(limit):
                check_keys(batch.pool, batch.keys)
                return [False] * len(batch.keys)
            return held.find(batch.keys)

    @contextmanager
    def _call(self, pool: str) -> "Iterator[_C.PagePool | None]":
        """The pool, if there is one; close() waits for the end of the block."""
        with self._calls.one():
            yield self._pools.get(pool)

    def _known(self, batches: Sequence[PoolBatch]) -> "tuple[list[int], list[_Part]]":
        """The batches whose pools there are: where they stand, and what is native of them."""
        known = [i for i, batch in enumerate(batches) if batch.pool in self._pools]
        parts = [(self._pools[batches[i].pool], batches[i].keys, batches[i].pages) for i in known]
        return known, parts

    def _totals(self) -> dict[str, int]:
        totals: dict[str, int] = {}
        for held in self._pools.values():
            for name, number in held.stats().items():
                totals[name] = totals.get(name, 0) + number
        return {**totals, "is_read_only": int(self.failure is not None)}

    def _open_pool(
        self,
        root_fd: int,
        pool: str,
        namespace: StoreNamespace,
        page_bytes: int,
        durability: "_C.PoolDurability",
        sizes: Mapping[str, int],
    ) -> None:
        from .. import _C

        dir_fd, path = open_namespace(root_fd, self.root, pool, namespace, page_bytes)
        owner = hashlib.sha256(f"{pool}/{namespace.digest()}".encode()).digest()
        try:
            self._pools[pool] = _C.PagePool(
                self._engine,
                name=pool,
                dir_fd=dir_fd,
                owner=owner,
                page_bytes=page_bytes,
                durability=durability,
                **sizes,
            )
        except StorageError as error:
            raise StorageError(f"store {path}: {error}") from error
        finally:
            os.close(dir_fd)
        self._paths[pool] = path

    def _release(self) -> None:
        for held in self._pools.values():
            held.close()
        self._pools = {}


def _quotas(
    page_bytes: Mapping[str, int], max_bytes: int | Mapping[str, int] | None
) -> dict[str, int]:
    """By pool."""
    if max_bytes is None:
        return dict.fromkeys(page_bytes, _NO_QUOTA)
    if not isinstance(max_bytes, int):
        if set(max_bytes) != set(page_bytes):
            raise StorageError(f"pools {sorted(page_bytes)} but quotas for {sorted(max_bytes)}")
        return dict(max_bytes)
    slots = {
        name: -(-size // SLOT_ALIGN_BYTES) * SLOT_ALIGN_BYTES for name, size in page_bytes.items()
    }
    num_pages = max_bytes // max(1, sum(slots.values()))
    if slots and num_pages < 1:
        raise StorageError(f"max_bytes={max_bytes}, below one page of each pool: {slots} bytes")
    return {name: num_pages * size for name, size in slots.items()}


def _native(limit: Limit | None) -> "_Limit":
    if limit is None:
        return {"deadline_ns": 0, "cancelled": None}
    return {"deadline_ns": limit.deadline_ns, "cancelled": limit.cancel_flag}
