"""Pools under copies that run late and in any order: the bytes are those of a plain model.

The model executes each copy at once, when it is asked for. The real one executes when the emulated
CUDA gets to it, after the pages may have been freed and handed out again. The two end alike only if
no page was reused under a copy and no copy overtook another that was in its way.
"""

import os
import random
from typing import Any

import numpy as np
import pytest
from emulated_cuda import emulated_cuda

from hicache_ext.copy import copy_pages
from hicache_ext.layout import LayoutSpec
from hicache_ext.pool import DevicePool, HostPool, PagePool

NUM_PAGES = 7
EXECUTORS = ("sm_reg", "sm_reg", "sm_bulk", "ce_batch", "cpu")
SIZES = {"page_size": 2, "num_layers": 3, "num_heads": 1, "head_bytes": 16}


class World:
    def __init__(self, seed: int, cuda: Any) -> None:
        self.random = random.Random(seed)
        self.cuda = cuda
        self.streams = [cuda.create_stream() for _ in range(3)]
        on_device = LayoutSpec.make("layer_first", num_pages=NUM_PAGES, **SIZES)
        on_host = LayoutSpec.make("page_unified", num_pages=NUM_PAGES, **SIZES)
        self.pools: list[PagePool] = [
            DevicePool(on_device, name="l1"),
            HostPool(on_host, name="l2"),
        ]
        for pool in self.pools:  # both in memory that the GPU reaches
            cuda.register_host(pool.buffer.address, pool.spec.num_bytes)
        self.held: list[list[int]] = [[], []]
        self.model = np.zeros((2, NUM_PAGES), np.uint8)  # every page has one byte value
        self.num_late = 0  # pages that were handed out when a copy had yet to execute

    def take(self, side: int | None = None) -> None:
        side = self.random.randrange(2) if side is None else side
        pool, value = self.pools[side], self.random.randrange(256)
        was_busy = self.cuda.num_pending > 0
        ids = pool.alloc(min(pool.num_free, self.random.randint(1, NUM_PAGES)))
        if ids:
            self.num_late += was_busy
            pool.poison(ids, value)  # the owner writes at once, without asking anybody
            self.model[side, ids] = value
            self.held[side] += ids

    def give(self) -> None:
        side = self.random.randrange(2)
        held = self.held[side]
        self.free(side, self.random.sample(held, self.random.randint(0, len(held))))

    def free(self, side: int, ids: list[int]) -> None:
        self.pools[side].free(ids)
        self.held[side] = [page_id for page_id in self.held[side] if page_id not in ids]

    def reuse(self) -> None:
        """Pages that a copy has just been asked to read, or to write, are somebody else's next."""
        side, pages = self.copy()
        used = {page_id for page_id in pages if page_id >= 0}
        self.free(side, sorted(used & set(self.held[side])))
        self.take(side)

    def copy(self) -> tuple[int, list[int]]:
        """Returns one side of it and its pages there."""
        side = self.random.randrange(2)
        num_pages = self.random.randint(0, min(4, *(len(held) for held in self.held)))
        src = self.random.choices(self.held[side], k=num_pages) if num_pages else []
        dst = self.random.sample(self.held[1 - side], num_pages)
        if num_pages and self.random.random() < 0.2:
            src[0] = -1  # a hole
        stream, executor = self.random.choice(self.streams), self.random.choice(EXECUTORS)
        buffers = self.pools[side].buffer, self.pools[1 - side].buffer
        # The ticket is dropped at once: the hazards keep it, and nobody waits.
        copy_pages(buffers[0], src, buffers[1], dst, executor=executor, stream=stream)
        for source, target in zip(src, dst, strict=True):
            if source >= 0:
                self.model[1 - side, target] = self.model[side, source]
        return self.random.choice([(side, src), (1 - side, dst)])

    def check(self) -> None:
        self.cuda.run_all()
        for side, pool in enumerate(self.pools):
            pages = np.asarray(pool._strided_pages())
            for page_id in self.held[side]:
                assert (pages[page_id] == self.model[side, page_id]).all(), (pool.name, page_id)
            pool.allocator.check_integrity()


@pytest.mark.parametrize("seed", range(40))
def test_late_copies_end_like_immediate_ones(seed: int) -> None:
    seed = int(os.environ.get("HICACHE_FUZZ_SEED", seed))
    print(f"replay: HICACHE_FUZZ_SEED={seed}")
    with emulated_cuda(seed=seed) as cuda:
        world = World(seed, cuda)
        for _ in range(200):
            calls = [world.take, world.give, world.copy, world.reuse]
            world.random.choices(calls, [2, 2, 6, 3])[0]()
            if world.random.random() < 0.03:
                world.check()
        world.check()
        assert world.num_late > 0, "nothing was handed out while copies ran: nothing is shown"
        for pool in world.pools:
            pool.close()
