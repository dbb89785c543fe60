"""One simulated rank: a HiCache with everything that is its own."""

from __future__ import annotations

import random

from hicache_ext.cache import HiCache
from hicache_ext.config import CacheConfig
from hicache_ext.keys import namespace_seed, page_keys
from hicache_ext.pool import PageState
from hicache_ext.tier import Tier
from hicache_ext.tree.key import pack_tokens

from .clock import Clock, Delays, SimIo
from .memory import PAGE_SIZE, POOLS, SimPool, content, simulate
from .network import SimGroup
from .schedule import Prompt, Schedule
from .store import SimStore


def keys_of(prompt: Prompt) -> list[bytes]:
    """The keys of the whole pages of a prompt."""
    return page_keys(pack_tokens(prompt.tokens), PAGE_SIZE, namespace_seed(prompt.namespace))


class SimRank:
    """Pools, store, I/O and cache of one rank; its faults and delays are its own."""

    def __init__(self, schedule: Schedule, clock: Clock, group: SimGroup) -> None:
        self.rank = group.rank
        self.group = group
        self.rng = random.Random(schedule.rank_seeds[self.rank])
        names = POOLS[:1] if schedule.window_tokens is None else POOLS
        num_host = schedule.num_host_pages[self.rank]
        self.device = {n: SimPool(n, Tier.DEVICE, schedule.num_device_pages) for n in names}
        self.host = {n: SimPool(n, Tier.HOST, num_host) for n in names}
        delays = Delays(self.rng, schedule.io_ms)
        io = SimIo(clock, delays)
        self.store = SimStore(self.rank, self.host, self.rng, io.landing)  # type: ignore[arg-type]
        for prompt in schedule.prompts:
            self.store.fill(keys_of(prompt), schedule.fill_rate)
        config = CacheConfig(
            page_size=PAGE_SIZE,
            window_tokens=schedule.window_tokens,
            prefetch=schedule.prefetch,
            write_policy=schedule.write_policy,
            write_back_watermark=0.5,
            num_slots=schedule.num_slots,
            num_endpoint_lanes=schedule.num_endpoint_lanes,
            tick_depth=schedule.tick_depth,
            tick_deadline_s=schedule.deadline_ms / 1000,
        )
        store = self.store if schedule.starts_with_store else None
        self.cache = HiCache(config, self.device, self.host, store, group, io)
        skew = random.Random(schedule.rank_seeds[self.rank] + 2)
        offset_s, rate = skew.uniform(0, 1000), skew.choice([0.5, 1, 1, 3])
        self.cache._ctx.alarm.clock = lambda: offset_s + rate * clock.now_ms / 1000
        simulate(self.cache.pools, clock, delays, schedule.copy_fail_rate)

    def write(self, keys: list[bytes], pages: dict[str, list[int]]) -> None:
        """Plays the forward pass: fills device pages with the bytes of their keys."""
        for name, ids in pages.items():
            for key, page_id in zip(keys, ids, strict=True):
                self.device[name].page_view(page_id)[:] = content(self.rank, name, key)

    def check_pages(self, keys: list[bytes], pages: dict[str, list[int]], tier: Tier) -> None:
        """Every page is the tree's and holds the bytes of its key; holes are -1."""
        pools = self.device if tier == Tier.DEVICE else self.host
        for name, ids in pages.items():
            pool = pools[name]
            attached = set(pool.allocator.pages_in(PageState.ATTACHED))
            for key, page_id in zip(keys, ids, strict=False):
                if page_id >= 0:
                    where = f"{tier.name} {name} page {page_id} of key {key.hex()[:6]}"
                    assert page_id in attached, f"{where} is {pool.allocator.state(page_id).name}"
                    have = bytes(pool.page_view(page_id))
                    assert have == content(self.rank, name, key), f"{where} holds other bytes"

    def check_prompt(self, prompt: Prompt) -> None:
        """Every page that the tree has for it, on both tiers."""
        tree = self.cache.tree
        found = tree.match_prefix(pack_tokens(prompt.tokens), prompt.namespace)
        for tier in (Tier.DEVICE, Tier.HOST):
            pages = {n: tree.path_pages(found.full_node, n, tier) for n in self.host}
            self.check_pages(keys_of(prompt), pages, tier)

    def fingerprint(self) -> tuple[int, ...]:
        """Differs after whatever moves a page or a lock, or splits a node."""
        tree = self.cache.tree
        pools = (*self.device.values(), *self.host.values())
        counts = [n for pool in pools for n in pool.allocator._counts]
        return (tree._core.next_id, tree._core.next_ticket, len(tree._receipts), *counts)

    def check_io(self) -> None:
        """No store call touched a page that was not its op's."""
        assert not self.store.violations, self.store.violations

    def check_idle(self) -> None:
        """Nothing is reserved or in I/O, no plan is open."""
        assert not self.cache.tree._state.plans
        for pool in (*self.device.values(), *self.host.values()):
            counts = pool.allocator.counts()
            busy = counts[PageState.RESERVED], counts[PageState.IO]
            assert busy == (0, 0), f"{pool.tier.name} {pool.name}: {busy} pages reserved, in I/O"

    def check_empty(self) -> None:
        """No request holds anything: the tree gives everything up, and all pages are free."""
        self.check_io()
        self.check_idle()
        assert not self.cache.tree._state.receipts, "locks that nobody holds"
        for tier in (Tier.DEVICE, Tier.HOST):
            self.cache.pools.take_back(self.cache.tree.clear(tier))
        for pool in (*self.device.values(), *self.host.values()):
            assert pool.num_free == pool.capacity, f"{pool.name}: {pool.allocator.counts()}"
            pool.close()
