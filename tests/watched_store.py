"""A store that looks at the pages it is handed: they must be the op's as long as it has them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from hicache_ext.pool import HostPool, PageState
from hicache_ext.storage.faulty import FaultyStore
from hicache_ext.storage.limit import Limit

Content = Callable[[str, bytes], bytes]  # what a page of (pool, key) must hold


class WatchedStore(FaultyStore):
    """`violations` has what was wrong: an error of a store is only a miss to its caller."""

    def __init__(
        self, inner: Any, host: Mapping[str, HostPool], sidecars: Mapping[str, str] | None = None
    ) -> None:
        """`sidecars`: pools whose pages are what those of another pool are."""
        super().__init__(inner)
        self._sidecars = dict(sidecars or {})
        self.violations: list[str] = []
        self.content: Content | None = None  # checked at every write, if given
        self._host = dict(host)

    def read_into(
        self,
        pool: str,
        keys: Sequence[bytes],
        pages: Sequence[memoryview],
        limit: Limit | None = None,
    ) -> list[bool]:
        self._watch("read into", pool, pages, PageState.IO)
        return super().read_into(pool, keys, pages, limit)

    def write_from(
        self,
        pool: str,
        keys: Sequence[bytes],
        pages: Sequence[memoryview],
        limit: Limit | None = None,
    ) -> list[bool]:
        self._watch_write(pool, keys, pages)
        return super().write_from(pool, keys, pages, limit)

    def _watch_write(self, pool: str, keys: Sequence[bytes], pages: Sequence[memoryview]) -> None:
        self._watch("write from", pool, pages, PageState.ATTACHED)
        for key, page in zip(keys, pages, strict=True):
            if self.content is not None and bytes(page) != self.content(pool, key):
                self.violations.append(f"{pool} page of another key written under {key.hex()}")

    def _watch(self, what: str, pool: str, pages: Sequence[memoryview], want: PageState) -> None:
        host = self._host[pool]
        for page in pages:
            address = np.frombuffer(page, np.uint8).ctypes.data
            page_id, offset = divmod(address - host.buffer.address, host.spec.stride_page)
            if 0 <= page_id < host.capacity and offset == 0:  # else a page of the test's own
                ledger = self._host[self._sidecars.get(pool, pool)].allocator
                state = ledger.state(page_id)
                if state != want:
                    self.violations.append(f"{what} {pool} page {page_id}, which is {state.name}")
