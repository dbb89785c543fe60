"""N simulated ranks in one process: same calls on all, pages with bytes that say whose they are."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from watched_store import WatchedStore

from hicache_ext.agreement.group import Group
from hicache_ext.agreement.local import LocalGroup
from hicache_ext.cache import HiCache
from hicache_ext.config import CacheConfig
from hicache_ext.copy import gather_pages, scatter_pages
from hicache_ext.flow.io import InlineIo
from hicache_ext.flow.record import Record
from hicache_ext.keys import namespace_seed, page_keys
from hicache_ext.layout import LayoutSpec, PagedBuffer
from hicache_ext.pool import Access, DevicePool, HostPool
from hicache_ext.storage.memory import MemoryStore
from hicache_ext.tier import Tier
from hicache_ext.tree.key import pack_tokens

PAGE_SIZE = 4
WINDOW = 10  # tokens: 3 pages
NUM_LAYERS = {"full": 2, "swa": 3}
DEPTH_VARIABLE = "HICACHE_TEST_TICK_DEPTH"  # conftest.py runs the tests at both


def page_content(rank: int, pool: str, key: bytes, num_bytes: int) -> bytes:
    """The bytes that rank `rank` has for a page: no two pages of a run are alike."""
    seed = hashlib.sha256(b"%d %s " % (rank, pool.encode()) + key).digest()
    return (seed * (num_bytes // len(seed) + 1))[:num_bytes]


def keys_of_pages(tokens: Sequence[int], namespace: bytes = b"") -> list[bytes]:
    """The keys of the whole pages of `tokens`."""
    whole = pack_tokens(tokens[: len(tokens) // PAGE_SIZE * PAGE_SIZE])
    return page_keys(whole, PAGE_SIZE, namespace_seed(namespace))


def make_pools(
    num_device: int, num_host: int, layers: Mapping[str, int] = NUM_LAYERS
) -> tuple[dict[str, DevicePool], dict[str, HostPool]]:
    shape = {"page_size": PAGE_SIZE, "num_heads": 2, "head_bytes": 16}
    device, host = {}, {}
    for name, num_layers in layers.items():
        spec = LayoutSpec.make("layer_first", num_pages=num_device, num_layers=num_layers, **shape)
        device[name] = DevicePool(spec, name=name)
        spec = LayoutSpec.make("page_unified", num_pages=num_host, num_layers=num_layers, **shape)
        host[name] = HostPool(spec, name=name)
        host[name].poison(range(num_host))
    return device, host


class Rank:
    """One cache with its pools and store."""

    def __init__(
        self,
        rank: int,
        group: Group,
        num_device: int = 32,
        num_host: int = 32,
        store: Any = None,
        io: Any = None,
        layers: Mapping[str, int] = NUM_LAYERS,
        has_events: bool = False,
        **config: Any,
    ) -> None:
        """`layers` of each pool, in order; `has_events`: rank 0 tells routers what it holds."""
        self.rank = rank
        self.device, self.host = make_pools(num_device, num_host, layers)
        self.page_bytes = {name: pool.spec.page_bytes for name, pool in self.host.items()}
        self.store = store or WatchedStore(
            MemoryStore(self.page_bytes), self.host, config.get("sidecars")
        )
        self.io = io if io is not None else InlineIo()
        depth = int(os.environ.get(DEPTH_VARIABLE, "1"))
        config = {"page_size": PAGE_SIZE, "window_tokens": WINDOW, "tick_depth": depth, **config}
        self.cache = HiCache(
            CacheConfig(**config),
            *(self.device, self.host, self.store, group, self.io),
            has_events=has_events and rank == 0,
        )

    @property
    def depth(self) -> int:
        return self.cache.config.tick_depth

    def tick(self) -> list[Record]:
        """As many ticks as it takes to apply what this rank says now."""
        return [record for _ in range(1 + self.depth) for record in self.cache.tick()]

    def content(self, pool: str, key: bytes) -> bytes:
        """The bytes of this rank's page."""
        return page_content(self.rank, pool, key, self.page_bytes[pool])

    def put(self, pool: str, keys: Sequence[bytes]) -> None:
        """Writes pages of this rank to its store."""
        pages = [self.content(pool, key) for key in keys]
        stored = self.store.write_from(pool, keys, [memoryview(bytearray(p)) for p in pages])
        assert all(stored)

    def check_host(self, tokens: Sequence[int], namespace: bytes = b"") -> None:
        """Every host page that the tree has on the path of `tokens` has its own bytes."""
        tree = self.cache.tree
        found = tree.match_prefix(tokens, namespace)
        keys = keys_of_pages(tokens, namespace)
        for name, pool in self.host.items():
            followed = self.cache.config.sidecars.get(name, name)
            ids = tree.path_pages(found.full_node, followed, Tier.HOST)
            for key, page_id in zip(keys, ids, strict=False):
                if page_id >= 0:
                    want = page_content(self.rank, name, key, self.page_bytes[name])
                    assert bytes(pool.page_view(page_id)) == want, (self.rank, name, page_id)

    def write_device(
        self,
        tokens: Sequence[int],
        pages: dict[str, list[int]],
        namespace: bytes = b"",
        write: Callable[..., Any] = scatter_pages,
    ) -> None:
        """Plays the forward pass: fills device pages with the bytes of their keys."""
        keys = keys_of_pages(tokens, namespace)
        for name, ids in pages.items():
            spec = self.device[name].spec
            for key, page_id in zip(keys, ids, strict=False):
                if page_id >= 0:
                    content = page_content(self.rank, name, key, spec.page_bytes)
                    source = PagedBuffer(
                        np.frombuffer(bytearray(content), np.uint8), spec.packed(1)
                    )
                    write(source, self.device[name].buffer, [page_id])

    def check_ledger(self) -> None:
        self.cache.check_integrity()
        assert not getattr(self.store, "violations", None), self.store.violations

    def wait_for_copies(self) -> None:
        """Those of requests among them, which no flow waits for."""
        for pool in (*self.device.values(), *self.host.values()):
            pool.wait_for_copies(None, Access.WRITE)

    def close(self) -> None:
        self.cache.close()
        for pool in (*self.device.values(), *self.host.values()):
            pool.close()


def read_page(buffer: PagedBuffer, page_id: int, want: bytes) -> None:
    """The page holds these bytes."""
    out = np.zeros(len(want), np.uint8)
    gather_pages(buffer, [page_id], PagedBuffer(out, buffer.spec.packed(1))).result()
    assert out.tobytes() == want


def check_device(
    rank: Rank,
    tokens: Sequence[int],
    pages: dict[str, list[int]],
    namespace: bytes = b"",
    read: Callable[[PagedBuffer, int, bytes], None] = read_page,
) -> None:
    """Each device page holds the bytes of its key."""
    keys = keys_of_pages(tokens, namespace)
    for name, ids in pages.items():
        buffer = rank.device[name].buffer
        for key, page_id in zip(keys, ids, strict=False):
            if page_id >= 0:
                read(buffer, page_id, rank.content(name, key))


class Ranks:
    """Drives simulated ranks in lockstep."""

    def __init__(
        self,
        num_ranks: int = 2,
        make_io: Callable[[], Any] = InlineIo,
        num_host: int | Sequence[int] = 32,
        **kw: Any,
    ) -> None:
        """`num_host`: of all ranks, or one number for each."""
        groups = LocalGroup.simulated(num_ranks)
        hosts = [num_host] * num_ranks if isinstance(num_host, int) else num_host
        self.ranks = [
            Rank(i, group, io=make_io(), num_host=host, **kw)
            for i, (group, host) in enumerate(zip(groups, hosts, strict=True))
        ]

    def __iter__(self):
        return iter(self.ranks)

    def __getitem__(self, i: int) -> Rank:
        return self.ranks[i]

    def each(self, call: Callable[[Rank], Any]) -> list[Any]:
        """The same call on every rank."""
        return [call(rank) for rank in self.ranks]

    def tick(self) -> list[list[Record]]:
        """As many ticks as it takes to apply what the ranks say now."""
        records: list[list[Record]] = [[] for _ in self.ranks]
        for _ in range(1 + self[0].depth):
            self.each(lambda r: r.cache.publish())
            for mine, new in zip(records, self.each(lambda r: r.cache.apply()), strict=True):
                mine += new
            self.check()
        return records

    def drain(self, max_ticks: int = 200) -> list[list[Record]]:
        """Ticks until idle; the records per rank."""
        records: list[list[Record]] = [[] for _ in self.ranks]
        for _ in range(max_ticks):
            if not any(r.cache.num_in_flight for r in self.ranks):
                return records
            for mine, new in zip(records, self.tick(), strict=True):
                mine += new
        raise AssertionError(f"still in flight after {max_ticks} ticks")

    def check(self) -> None:
        """Trees equal on all ranks, ledgers exact."""
        self.each(lambda r: r.check_ledger())
        digests = self.each(lambda r: r.cache.tree.digest)
        assert len(set(digests)) == 1, digests
        shapes = self.each(lambda r: shape_of(r.cache))
        assert all(shape == shapes[0] for shape in shapes)

    def check_idle(self) -> None:
        """Nothing in flight: every page is free or the tree's, no plan is open."""
        self.check()
        for rank in self.ranks:
            assert not rank.cache.tree._state.plans
            for pool in (*rank.device.values(), *rank.host.values()):
                counts = {state.name: n for state, n in pool.allocator.counts().items()}
                assert counts["RESERVED"] == counts["IO"] == 0, (rank.rank, pool.name, counts)

    def close(self) -> None:
        self.each(lambda r: r.close())


def publish(ranks: Iterable[Rank]) -> None:
    """All ranks say where they are, and the coming `apply` applies just that."""
    for rank in ranks:
        rank.cache.publish()
    for _ in range(next(iter(ranks)).depth):
        for rank in ranks:
            rank.cache.apply()
        for rank in ranks:
            rank.cache.publish()


def shape_of(cache: HiCache) -> list[Any]:
    """What must be equal on all ranks: structure and residency, not the page ids."""
    return cache.tree.show().splitlines()
