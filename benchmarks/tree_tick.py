"""A tick of a cache that has requests in flight and nothing to do."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from statistics import median
from typing import Any

from benchmarks.tree_cases import PAGE_SIZE, times
from hicache_ext.cache import HiCache
from hicache_ext.config import CacheConfig
from hicache_ext.layout import LayoutSpec
from hicache_ext.pool import DevicePool, HostPool
from hicache_ext.storage.memory import MemoryStore


class NeverIo:
    """Store calls that are under way until `close`, which gives them up."""

    def __init__(self) -> None:
        self._futures: list[Future[Any]] = []

    def submit(self, call: Callable[[], Any]) -> Future[Any]:
        self._futures.append(Future())
        return self._futures[-1]

    def end(self) -> None:
        for future in self._futures:
            future.set_exception(TimeoutError("the benchmark is over"))

    def close(self) -> None:
        pass


def idle_tick(num_requests: int, num_ticks: int) -> float:
    """Median of HiCache.tick() of one rank while so many prefetches wait for their store."""
    shape = {"page_size": PAGE_SIZE, "num_layers": 1, "num_heads": 1, "head_bytes": 16}
    device = DevicePool(LayoutSpec.make("layer_first", num_pages=64, **shape), name="full")
    host = HostPool(LayoutSpec.make("page_unified", num_pages=64, **shape), name="full")
    store, io = MemoryStore({"full": host.spec.page_bytes}), NeverIo()
    config = CacheConfig(page_size=PAGE_SIZE, num_slots=num_requests)
    with HiCache(config, {"full": device}, {"full": host}, store, io=io) as cache:
        for request in range(num_requests):
            assert cache.prefetch([request] * (4 * PAGE_SIZE)) is not None
        for _ in range(8):
            assert cache.tick() == []
        times_s: list[float] = []
        for _ in range(num_ticks):
            times(times_s, cache.tick)
        assert cache.num_in_flight == num_requests
        io.end()
    return median(times_s)
