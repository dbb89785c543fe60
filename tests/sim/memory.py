"""Pools of tiny pages with known bytes, and copies between them that take time and fail."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from hicache_ext.errors import CudaError
from hicache_ext.flow.pools import PoolSet
from hicache_ext.layout import LayoutSpec, PagedBuffer
from hicache_ext.page_pool import PagePool
from hicache_ext.pool import PageState
from hicache_ext.tier import Tier

from .clock import Clock, Delays

POOLS = ("full", "swa")
PAGE_SIZE = 2  # tokens
PAGE_BYTES = 32

Pages = Mapping[str, Sequence[int]]


def content(rank: int, pool: str, key: bytes) -> bytes:
    """The bytes that rank `rank` has for a page: no two pages of a run are alike."""
    return bytes((rank, POOLS.index(pool))) + key[: PAGE_BYTES - 2]


class SimPool(PagePool):
    """Pages in ordinary memory, on either tier."""

    def __init__(self, name: str, tier: Tier, num_pages: int) -> None:
        shape = {"page_size": PAGE_SIZE, "num_layers": 1, "num_heads": 1, "head_bytes": 8}
        spec = LayoutSpec.make("page_unified", num_pages=num_pages, **shape)
        assert spec.page_bytes == PAGE_BYTES
        super().__init__(spec, name=name, tier=tier)
        self.memory = np.full(spec.num_bytes, 0xFF, np.uint8)
        self._buffer = PagedBuffer(self.memory, spec)
        self._view = self.memory.data

    def page_id_of(self, page: memoryview) -> int | None:
        """The page that a view of page_view() shows; None for memory of somebody else."""
        offset = np.frombuffer(page, np.uint8).ctypes.data - self.buffer.address
        page_id, rest = divmod(offset, PAGE_BYTES)
        return page_id if rest == 0 and 0 <= page_id < self.capacity else None

    def _close(self) -> None:
        self._buffer = None

    def _memory_view(self) -> memoryview:
        return self._view

    def _strided_pages(self) -> Any:
        return self.memory.reshape(-1, PAGE_BYTES)


class SimCopies:
    """Copies of one op. They move the bytes at the last moment, when every page must still be
    where the copy left it."""

    def __init__(self, pools: SimPoolSet, to: Tier, sources: Pages, targets: Pages) -> None:
        self._pools, self._to = pools, to
        self._sources = {name: list(sources[name]) for name in targets}
        self._targets = {name: list(ids) for name, ids in targets.items()}
        self._end_ms = pools.clock.now_ms + pools.delays.draw()
        self._fails = pools.rng.random() < pools.fail_rate
        self._num_bytes: int | None = None

    def done(self) -> bool:
        if self._pools.clock.now_ms >= self._end_ms:
            self.wait()
        return self._num_bytes is not None

    def wait(self) -> None:
        if self._num_bytes is not None:
            return
        self._num_bytes = 0
        source_tier = Tier.HOST if self._to == Tier.DEVICE else Tier.DEVICE
        for name, ids in self._targets.items():
            target, source = self._pools.get(self._to, name), self._pools.get(source_tier, name)
            for to, origin in zip(ids, self._sources[name], strict=True):
                states = source.allocator.state(origin), target.allocator.state(to)
                assert states == (PageState.ATTACHED, PageState.IO), (self._to.name, name, states)
                target.page_view(to)[:] = source.page_view(origin)
            self._num_bytes += len(ids) * PAGE_BYTES

    def result(self) -> int:
        self.wait()
        if self._fails:
            raise CudaError("told to fail at the end")
        assert self._num_bytes is not None
        return self._num_bytes


class SimPoolSet(PoolSet):
    """Stands in for the PoolSet of one cache, see `simulate`."""

    clock: Clock
    delays: Delays
    rng: random.Random
    fail_rate: float

    def copy(self, to: Tier, sources: Pages, targets: Pages) -> Any:
        if self.rng.random() < self.fail_rate:
            raise CudaError("told to fail at the start")
        return SimCopies(self, to, sources, targets)

    def copy_layers(self, sources: Pages, targets: Pages) -> Any:
        return self.copy(Tier.DEVICE, sources, targets)


def simulate(pools: PoolSet, clock: Clock, delays: Delays, fail_rate: float) -> None:
    """Copies between these pools take virtual time from now on, and may fail."""
    pools.__class__ = SimPoolSet
    assert isinstance(pools, SimPoolSet)
    pools.clock, pools.delays, pools.rng, pools.fail_rate = clock, delays, delays.rng, fail_rate
