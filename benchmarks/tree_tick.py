"""A tick of a cache that has requests in flight and nothing to do."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from statistics import median
from typing import Any

from benchmarks.tree_cases import PAGE_SIZE, times
from hicache_ext.cache import HiCache
from hicache_ext.config import CacheConfig
from hicache_ext.flow.prefetch_rules import PrefetchRules
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

    def give_up(self, call: Future[Any]) -> None:
        pass

    def end(self) -> None:
        for future in self._futures:
            future.set_exception(TimeoutError("the benchmark is over"))

    def close(self) -> None:
        pass


def idle_tick(num_requests: int, num_ticks: int) -> float:
    """Median of HiCache.tick() of one rank while so many prefetches wait for their store.

    Each is polled between the ticks, so that its deadline runs; the polls are not timed.
    """
    shape = {"page_size": PAGE_SIZE, "num_layers": 1, "num_heads": 1, "head_bytes": 16}
    device = DevicePool(LayoutSpec.make("layer_first", num_pages=64, **shape), name="full")
    host = HostPool(LayoutSpec.make("page_unified", num_pages=64, **shape), name="full")
    store, io = MemoryStore({"full": host.spec.page_bytes}), NeverIo()
    rules = PrefetchRules(timeout_s=600.0)  # nobody's deadline passes here
    config = CacheConfig(page_size=PAGE_SIZE, num_slots=num_requests, prefetch=rules)
    with HiCache(config, {"full": device}, {"full": host}, store, io=io) as cache:
        prompts = ([request] * (4 * PAGE_SIZE) for request in range(num_requests))
        ops = [cache.prefetch(prompt) for prompt in prompts]
        times_s: list[float] = []
        for _ in range(num_ticks):
            assert not any(cache.poll(op_id) for op_id in ops if op_id is not None)
            assert times(times_s, cache.tick) == []
        assert cache.num_in_flight == num_requests
        io.end()
    return median(times_s)
