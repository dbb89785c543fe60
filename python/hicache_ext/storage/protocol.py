"""PageStore: what every L3 backend is to the rest of the package, and the checks that all share."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from ..errors import StorageError
from ..keys import KEY_BYTES
from .limit import Limit


@dataclass(frozen=True)
class Capabilities:
    """What a store can do, so that nobody has to guess from its class."""

    zero_copy: bool  # pages move straight between the caller's buffers and the engine
    atomic_batch: bool  # a batch is stored as a whole or not at all
    quota: bool  # evicts by itself to stay within its bytes
    persistent: bool  # pages outlive the process
    shared: bool  # other processes see what is written


@runtime_checkable
class PageStore(Protocol):
    """Fixed-size pages by (pool, key). Thread-safe; every result is told page by page.

    A pool the store does not know, a key it does not have and a page it cannot trust are False,
    never an error: the caller recomputes. StorageError is for a misuse (a key that is not 32 bytes,
    a buffer of the wrong size, unequal lengths) and for a closed store. No keys: [].
    Past its `limit` a call returns and tells what it has not done as False.
    Buffers belong to the caller and are borrowed until the call returns. A store whose engine
    cannot give them back in time raises StoreTimeout: they stay borrowed until its wait() is True.
    """

    @property
    def capabilities(self) -> Capabilities: ...

    def exists(self, pool: str, keys: Sequence[bytes], limit: Limit | None = None) -> list[bool]:
        """Which keys a read would probably find. Cheap: no page is read or verified."""
        ...

    def read_into(
        self,
        pool: str,
        keys: Sequence[bytes],
        pages: Sequence[memoryview],
        limit: Limit | None = None,
    ) -> list[bool]:
        """Fill pages[i] (writable, contiguous, exactly page_bytes) with the page of keys[i].

        False is a miss or a page that failed verification; the buffer's content is then undefined.
        """
        ...

    def write_from(
        self,
        pool: str,
        keys: Sequence[bytes],
        pages: Sequence[memoryview],
        limit: Limit | None = None,
    ) -> list[bool]:
        """Store pages[i] under keys[i]. True also where the key exists: keys name their content,
        so the first value stays. False is a page that was not stored."""
        ...

    def remove(self, pool: str, keys: Sequence[bytes]) -> int:
        """Forget these pages; returns how many were there."""
        ...

    def clear(self) -> None:
        """Forget every page of every pool of this store's namespaces."""
        ...

    def stats(self) -> dict[str, int]:
        """Counters since open; STAT_NAMES at least, backends add their own."""
        ...

    def close(self) -> None:
        """Wait for the calls in flight and release everything. Closing twice is legal."""
        ...


# What stats() of every store has.
STAT_NAMES = (
    "num_pages",  # held now, as far as this store knows
    "num_read_pages",
    "num_missed_pages",  # asked of read_into and not delivered, whatever the reason
    "num_written_pages",  # really written; a key that existed is not counted
    "read_bytes",
    "written_bytes",
)


def check_keys(pool: str, keys: Sequence[bytes]) -> None:
    """StorageError unless every key is KEY_BYTES long."""
    for position, key in enumerate(keys):
        if len(key) != KEY_BYTES:
            raise StorageError(
                f"pool {pool!r}: key at position {position} is {len(key)} bytes, "
                f"expected {KEY_BYTES}"
            )


def check_lengths(pool: str, keys: Sequence[bytes], pages: Sequence[memoryview]) -> None:
    """StorageError unless there is a page for each key."""
    if len(keys) != len(pages):
        raise StorageError(f"pool {pool!r}: {len(keys)} keys but {len(pages)} pages")


def check_pages(
    pool: str, keys: Sequence[bytes], pages: Sequence[memoryview], page_bytes: int, access: str
) -> None:
    """StorageError unless keys and pages match and every buffer is one contiguous page.

    `access` is "read" (the buffer must be writable) or "write".
    """
    check_keys(pool, keys)
    check_lengths(pool, keys, pages)
    for position, page in enumerate(pages):
        if page.nbytes != page_bytes or not page.c_contiguous:
            raise StorageError(
                f"pool {pool!r}: buffer at position {position} is {page.nbytes} bytes "
                f"(contiguous={page.c_contiguous}), expected {page_bytes} contiguous"
            )
        if access == "read" and page.readonly:
            raise StorageError(f"pool {pool!r}: buffer at position {position} is read-only")


def check_namespaces(pools: Collection[str], namespaces: Collection[str]) -> None:
    """StorageError unless each pool has its namespace, and no other has."""
    if set(pools) != set(namespaces):
        raise StorageError(f"pools {sorted(pools)} but namespaces for {sorted(namespaces)}")


def check_page_bytes(page_bytes: Mapping[str, int]) -> dict[str, int]:
    """A private copy of {pool: bytes of one page}; StorageError on a size below 1."""
    for pool, num_bytes in page_bytes.items():
        if num_bytes < 1:
            raise StorageError(f"pool {pool!r}: page_bytes={num_bytes}, expected at least 1")
    return dict(page_bytes)
