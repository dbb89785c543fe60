"""MemoryStore: a PageStore in a dict, for tests and simulated ranks that share one store."""

import threading
from collections.abc import Mapping, Sequence

from ..errors import StorageError
from .limit import Limit, is_over
from .protocol import STAT_NAMES, Capabilities, check_keys, check_page_bytes, check_pages


class MemoryStore:
    """Pages are copied in and out, so a caller's buffer may be reused as soon as a call returns."""

    capabilities = Capabilities(
        zero_copy=False, atomic_batch=False, quota=False, persistent=False, shared=False
    )

    def __init__(self, page_bytes: Mapping[str, int]) -> None:
        """`page_bytes`: {pool: bytes of one page}; other pools do not exist here."""
        self._page_bytes = check_page_bytes(page_bytes)
        self._pages: dict[str, dict[bytes, bytes]] = {pool: {} for pool in page_bytes}
        self._counters = dict.fromkeys(STAT_NAMES, 0)
        self._lock = threading.Lock()
        self._is_closed = False

    def exists(self, pool: str, keys: Sequence[bytes], limit: Limit | None = None) -> list[bool]:
        check_keys(pool, keys)
        with self._lock:
            held = self._pool(pool)
            return [key in held and not is_over(limit) for key in keys]

    def read_into(
        self,
        pool: str,
        keys: Sequence[bytes],
        pages: Sequence[memoryview],
        limit: Limit | None = None,
    ) -> list[bool]:
        if pool in self._page_bytes:
            check_pages(pool, keys, pages, self._page_bytes[pool], "read")
        with self._lock:
            held = self._pool(pool)
            found = [held.get(key) for key in keys]
        results = [False] * len(keys)
        for position, content in enumerate(found):
            if content is not None and not is_over(limit):
                pages[position].cast("B")[:] = content
                results[position] = True
        self._count("read", pool, sum(results))
        self._count("missed", pool, len(results) - sum(results))
        return results

    def write_from(
        self,
        pool: str,
        keys: Sequence[bytes],
        pages: Sequence[memoryview],
        limit: Limit | None = None,
    ) -> list[bool]:
        if pool not in self._page_bytes:
            self._check_open()
            return [False] * len(keys)
        check_pages(pool, keys, pages, self._page_bytes[pool], "write")
        with self._lock:
            held = self._pool(pool)
            num_before = len(held)
            for key, page in zip(keys, pages, strict=True):
                if key not in held and not is_over(limit):
                    held[key] = bytes(page)
            num_new = len(held) - num_before
            results = [key in held for key in keys]
        self._count("written", pool, num_new)
        return results

    def remove(self, pool: str, keys: Sequence[bytes]) -> int:
        check_keys(pool, keys)
        with self._lock:
            held = self._pool(pool)
            return sum(held.pop(key, None) is not None for key in keys)

    def clear(self) -> None:
        with self._lock:
            self._check_open()
            for held in self._pages.values():
                held.clear()

    def stats(self) -> dict[str, int]:
        with self._lock:
            num_pages = sum(len(held) for held in self._pages.values())
            return {**self._counters, "num_pages": num_pages}

    def close(self) -> None:
        with self._lock:
            self._is_closed = True
            self._pages = {pool: {} for pool in self._pages}

    def _pool(self, pool: str) -> dict[bytes, bytes]:
        self._check_open()
        return self._pages.get(pool, {})

    def _check_open(self) -> None:
        if self._is_closed:
            raise StorageError("MemoryStore is closed")

    def _count(self, what: str, pool: str, num_pages: int) -> None:
        with self._lock:
            self._counters[f"num_{what}_pages"] += num_pages
            if what != "missed":
                self._counters[f"{what}_bytes"] += num_pages * self._page_bytes.get(pool, 0)
