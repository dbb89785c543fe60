"""The host pools that SGLang registered, and the stores that their pages are in."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from hicache_ext.errors import StorageError
from hicache_ext.storage import Limit, PieceStore, StoreNamespace

from .lent import lent
from .naming import Naming
from .pages import HostPages, flat_bytes, open_pages
from .stores import holds_buffers, open_store

ANCHOR = "kv"  # the pool that SGLang counts pages by


@dataclass(frozen=True)
class OpenPool:
    """A pool whose pages can be stored."""

    pages: HostPages
    store: PieceStore
    is_writer: bool  # another rank stores the same bytes if not


class HostPools:
    """Pools by name. Opened together, into one store; what is registered later gets its own.

    A pool may hold no memory, as an anchor that only counts for others does: it is registered and
    `is_logical`, and has nothing to store.
    """

    def __init__(self, naming: Naming) -> None:
        self._naming = naming
        self._lock = threading.Lock()
        self._registered: dict[str, Any] = {}
        self._logical: set[str] = set()
        self._open: dict[str, OpenPool] = {}
        self._stores: list[PieceStore] = []
        self._opens_at_once = False

    def register(self, name: str, pool: Any) -> None:
        """StorageError as open() if that was called before."""
        with self._lock:
            self._registered[name] = pool
            self._logical.discard(name)
            if pool.size_per_token == 0:  # as LogicalHostPool says it; a destroyed pool does not
                self._logical.add(name)
            if self._opens_at_once:
                self._open_all([name])

    def open(self) -> None:
        """All that was registered. StorageError where a pool or its store cannot be had."""
        with self._lock:
            if ANCHOR not in self._registered:
                raise StorageError(f"no pool {ANCHOR!r} was registered")
            self._open_all(list(self._registered))
            self._opens_at_once = True

    def _open_all(self, names: list[str]) -> None:
        page_size = self._registered[ANCHOR].page_size
        new: dict[str, HostPages] = {}
        namespaces: dict[str, StoreNamespace] = {}
        for name in names:
            pool = self._registered[name]
            is_open = name in self._open and self._open[name].pages.pool is pool
            if not is_open and name not in self._logical:
                new[name], named = open_pages(name, pool, page_size, self._naming)
                namespaces.update(named)
        if not new:
            return
        sizes = {piece.pool: piece.num_bytes for pages in new.values() for piece in pages.cut}
        inner = open_store(self._naming.config.store, namespaces, sizes)
        store = PieceStore(inner, {name: pages.cut for name, pages in new.items()})
        self._stores.append(store)
        for name, pages in new.items():
            is_writer = self._naming.shares(name, pages.pool).is_writer
            self._open[name] = OpenPool(pages, store, is_writer)

    def is_logical(self, name: str) -> bool:
        """Whether the pool holds no memory; False for one that is not known."""
        return name in self._logical

    def is_written_elsewhere(self, name: str) -> bool:
        """Whether this rank has nothing to store: no memory, or what another rank stores."""
        is_replica = name in self._open and not self._open[name].is_writer
        return is_replica or self.is_logical(name)

    def page_bytes(self, name: str) -> int:
        return self._open[name].pages.page_bytes if name in self._open else 0

    def exists(self, name: str, keys: Sequence[bytes], limit: Limit) -> list[bool]:
        """PageStore.exists(); a pool that is not open has nothing."""
        held = self._open.get(name)
        return held.store.exists(name, keys, limit) if held else [False] * len(keys)

    def read(self, name: str, keys: Sequence[bytes], host_indices: Any, limit: Limit) -> list[bool]:
        """Into the pool; `host_indices` as in HostPages."""
        held = self._opened(name)
        return held.pages.read(held.store, keys, host_indices, limit)

    def write(
        self, name: str, keys: Sequence[bytes], host_indices: Any, limit: Limit
    ) -> list[bool]:
        """From the pool; `host_indices` as in HostPages."""
        held = self._opened(name)
        return held.pages.write(held.store, keys, host_indices, limit)

    def read_flat(self, keys: Sequence[bytes], pages: Sequence[Any], limit: Limit) -> list[bool]:
        """Pages of the anchor, into flat tensors of SGLang's."""
        store = self._opened(ANCHOR).store
        with lent(pages):
            return store.read_into(ANCHOR, keys, [flat_bytes(page) for page in pages], limit)

    def write_flat(self, keys: Sequence[bytes], pages: Sequence[Any], limit: Limit) -> list[bool]:
        """Pages of the anchor, from flat tensors of SGLang's."""
        store = self._opened(ANCHOR).store
        if holds_buffers(self._naming.config.store):
            pages = [page.clone() for page in pages]  # they may be views of the pool
        with lent(pages):
            return store.write_from(ANCHOR, keys, [flat_bytes(page) for page in pages], limit)

    def _opened(self, name: str) -> OpenPool:
        if name not in self._open:
            raise StorageError(f"pool {name!r} is not open; those that are: {sorted(self._open)}")
        return self._open[name]

    def clear(self) -> None:
        for store in self._stores:
            store.clear()

    def stats(self) -> dict[str, int]:
        """PageStore.stats() of all stores together."""
        total: dict[str, int] = {}
        for store in self._stores:
            for name, value in store.stats().items():
                total[name] = total.get(name, 0) + value
        return total

    def close(self) -> None:
        """Waits for calls in flight. A call after it raises StorageError."""
        with self._lock:
            for store in self._stores:
                store.close()
