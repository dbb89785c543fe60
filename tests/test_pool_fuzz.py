"""Pools under copies that run late and in any order: the bytes are those of a plain model.

The model executes each copy at once, when it is asked for. The real one executes when the fake GPU
gets to it, after the pages may have been freed and handed out again. The two end alike only if no
page was reused under a copy and no copy overtook another that was in its way.
"""

import os
import random

import numpy as np
import pytest
from fake_gpu import FakeGpu, install

from hicache_ext.copy import copy_pages
from hicache_ext.errors import LifetimeError
from hicache_ext.layout import LayoutSpec
from hicache_ext.pool import DevicePool, HostPool, PagePool

NUM_PAGES = 7
SIZES = {"page_size": 2, "num_layers": 3, "num_heads": 1, "head_bytes": 8}


class World:
    def __init__(self, seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
        self.random = random.Random(seed)
        self.gpu = FakeGpu(seed)
        install(self.gpu, monkeypatch)
        on_device = LayoutSpec.make("layer_first", num_pages=NUM_PAGES, **SIZES)
        on_host = LayoutSpec.make("page_unified", num_pages=NUM_PAGES, **SIZES)
        self.pools: list[PagePool] = [
            DevicePool(on_device, name="l1"),
            HostPool(on_host, name="l2"),
        ]
        self.held: list[list[int]] = [[], []]
        self.model = np.zeros((2, NUM_PAGES), np.uint8)  # every page has one byte value
        self.num_late = 0  # pages that were handed out when a copy had yet to execute

    def take(self) -> None:
        side = self.random.randrange(2)
        pool, value = self.pools[side], self.random.randrange(256)
        was_busy = any(self.gpu.streams.values())
        ids = pool.alloc(self.random.randint(1, 3))
        if ids is not None:
            self.num_late += was_busy
            pool.poison(ids, value)  # the owner writes at once, without asking anybody
            self.model[side, ids] = value
            self.held[side] += ids

    def give(self) -> None:
        side = self.random.randrange(2)
        held = self.held[side]
        ids = self.random.sample(held, self.random.randint(0, min(4, len(held))))
        self.pools[side].free(ids)
        self.held[side] = [page_id for page_id in held if page_id not in ids]

    def copy(self) -> None:
        side = self.random.randrange(2)
        num_pages = self.random.randint(0, min(4, *(len(held) for held in self.held)))
        src = self.random.choices(self.held[side], k=num_pages) if num_pages else []
        dst = self.random.sample(self.held[1 - side], num_pages)
        if num_pages and self.random.random() < 0.2:
            src[0] = -1  # a hole
        stream = self.random.randrange(3)
        copy_pages(self.pools[side].buffer, src, self.pools[1 - side].buffer, dst, stream=stream)
        for source, target in zip(src, dst, strict=True):
            if source >= 0:
                self.model[1 - side, target] = self.model[side, source]

    def close(self) -> None:
        """Must be refused while anything runs; the world goes on."""
        pool = self.random.choice(self.pools)
        if pool.hazards.pages():
            with pytest.raises(LifetimeError, match="copies read or write"):
                pool.close()

    def check(self) -> None:
        for side, pool in enumerate(self.pools):
            pages = np.asarray(pool._strided_pages())
            for page_id in self.held[side]:
                assert (pages[page_id] == self.model[side, page_id]).all(), (pool.name, page_id)
            pool.allocator.check_integrity()


@pytest.mark.parametrize("seed", range(40))
def test_late_copies_end_like_immediate_ones(seed: int, monkeypatch) -> None:
    seed = int(os.environ.get("HICACHE_FUZZ_SEED", seed))
    print(f"replay: HICACHE_FUZZ_SEED={seed}")
    world = World(seed, monkeypatch)
    for _ in range(200):
        action = world.random.choices(["take", "give", "copy", "close", "step"], [4, 4, 6, 1, 4])[0]
        world.gpu.step() if action == "step" else getattr(world, action)()
        if world.random.random() < 0.03:
            world.gpu.finish()
            world.check()
    world.gpu.finish()
    world.check()
    assert world.num_late > 5, "nothing was handed out while copies ran: the test shows nothing"
    for pool in world.pools:
        pool.close()
