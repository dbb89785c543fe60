"""Slots for storage against NumPy and the reference xxhash: every byte, and not one besides."""

from __future__ import annotations

import random
from dataclasses import replace

import numpy as np
import pytest
from fake_gpu import FakeGpu
from page_cases import KINDS
from pages import POISON, guarded, guarded_set, random_bytes
from staging_cases import Stage, check_gather, check_scatter, checksum, pool_and_slots

from hicache_ext.hazards import Access
from hicache_ext.host_buffer import HostBuffer, PinMode
from hicache_ext.layout import LayoutSpec
from hicache_ext.pool import HostPool
from hicache_ext.staging import Slots, gather_slots, scatter_slots
from hicache_ext.storage import SegmentStore
from hicache_ext.ticket import Ticket

# Bytes of an item: odd ones, packed rows of today's models; runs of the last are hashed on the way.
ITEMS = (1, 3, 33, 132, 576, 656, 5003, 37440)


@pytest.mark.parametrize("item", ITEMS)
@pytest.mark.parametrize("kind", KINDS)
def test_round_trip(kind: str, item: int) -> None:
    for seed in range(2):
        rng = random.Random(f"{kind} {item} {seed}")
        stage = Stage.draw(rng, kind, item)
        ids = stage.ids(rng)
        keys = [rng.randbytes(32) for _ in ids]
        threads = rng.choice([1, 2])
        check_gather(stage, ids, None, threads)
        check_scatter(stage, rng, len(ids), num_threads=threads)
        stage.slots.array[:] = POISON
        told = check_gather(stage, ids, keys, threads)
        sums = [
            own or checksum(key, bytes(stage.slots.object_view(i)))
            for i, (own, key) in enumerate(zip(told, keys, strict=True))
        ]
        check_scatter(stage, rng, len(ids), keys=keys, checksums=sums, num_threads=threads)


@pytest.mark.parametrize("item", ITEMS)
def test_a_flipped_bit_anywhere_is_found(item: int) -> None:
    rng = random.Random(item)
    stage = Stage.draw(rng, "layer_first", item)
    count, size = stage.slots.num_slots, stage.slots.object_bytes
    ids = [rng.randrange(stage.pool.spec.num_pages) for _ in range(count)]
    keys = [rng.randbytes(32) for _ in ids]
    told = gather_slots(stage.pool.buffer, ids, stage.slots, keys=keys)
    options = dict(keys=keys, checksums=told, num_threads=2)
    check_scatter(stage, rng, count, **options)
    for at in {0, size // 3, size // 2, size - 1}:
        slot = rng.randrange(count)
        bit = 1 << rng.randrange(8)
        stage.slots.slot_view(slot)[at] ^= bit
        check_scatter(stage, rng, count, {slot}, **options)
        stage.slots.slot_view(slot)[at] ^= bit
    if stage.slots.slot_stride_bytes > size:
        stage.slots.slot_view(0)[size] ^= 1  # padding is nobody's
        check_scatter(stage, rng, count, **options)
    swapped = [keys[0][:7] + bytes([keys[0][7] ^ 1]) + keys[0][8:], *keys[1:]]
    check_scatter(stage, rng, count, {0}, **{**options, "keys": swapped})


def test_more_than_the_caches_hold() -> None:
    """Streamed past them; runs of 24 000 bytes are hashed on their way, those of 1 000 after it."""
    rng = random.Random(5)
    for kind in ("layer_first", "page_first"):
        extents = dict(num_pages=60, page_size=24, num_layers=6, num_heads=4, head_bytes=250)
        (pool,) = guarded_set([LayoutSpec.make(kind, **extents)], [0])
        pool.bytes[:] = random_bytes(rng, pool.bytes.size)
        memory = HostBuffer(60 * 290816, pin=PinMode.NEVER)
        stage = Stage(pool, Slots(memory, pool.spec), memory.array, 1)
        assert stage.slots.slot_stride_bytes == 290816 and stage.slots.num_slots == 60
        ids = rng.sample(range(60), 60)
        keys = [rng.randbytes(32) for _ in ids]
        told = check_gather(stage, ids, keys, 2)
        check_gather(stage, ids, None, 2)
        target = guarded(pool.spec, POISON)
        assert all(scatter_slots(stage.slots, target.buffer, ids, keys=keys, checksums=told))
        np.testing.assert_array_equal(target.bytes, pool.bytes)


def test_the_checksum_is_that_of_a_segment_store(tmp_path) -> None:
    """What a gather hashed, a store would have hashed; and a store's objects are a pool's pages."""
    spec = LayoutSpec.make(
        "page_unified", num_pages=4, page_size=4, num_layers=2, num_heads=2, head_bytes=50
    )
    pool = HostPool(spec, name="full")
    pool.buffer.array[:] = random_bytes(random.Random(1), spec.num_bytes)
    slots = Slots(HostBuffer(8 * 4096), replace(spec, num_pages=1))
    keys = [bytes([i]) * 32 for i in range(3)]
    told = gather_slots(pool.buffer, [2, 0, 3], slots, keys=keys)
    store = SegmentStore.for_pools(
        tmp_path / "s", {"full": spec}, model="m", revision="r", dtype="b"
    )
    views = [slots.object_view(i) for i in range(3)]
    assert store.write_from("full", keys, views) == [True] * 3
    (index,) = tmp_path.glob("s/full-*/shard-*/index")
    assert all(checksum in index.read_bytes() for checksum in told)
    other = Slots(HostBuffer(8 * 4096), spec)
    assert store.read_into("full", keys, [other.object_view(i) for i in range(3)]) == [True] * 3
    back = HostPool(spec, name="back")
    done = scatter_slots(other, back.buffer, [1, 3, 0], keys=keys, checksums=told)
    assert done == [True] * 3
    assert [bytes(back.page_view(i)) for i in (1, 3, 0)] == [
        bytes(pool.page_view(i)) for i in (2, 0, 3)
    ]
    store.close()


def test_no_page_at_all() -> None:
    pool, slots = pool_and_slots()
    assert gather_slots(pool, [], slots, keys=[]) == []
    assert scatter_slots(slots, pool, [], keys=[], checksums=[]) == []
    assert gather_slots(pool, [-1, -9], slots, keys=[bytes(32)] * 2) == [None, None]
    assert scatter_slots(slots, pool, [-1], keys=[bytes(32)], checksums=[None]) == [False]
    assert set(slots.array) == {POISON}


def test_a_gather_waits_for_who_writes_its_pages() -> None:
    pool, slots = pool_and_slots()
    gpu = FakeGpu(0)
    pages = pool.array.reshape(4, -1)
    writes = Ticket(0, (), gpu.start(1, lambda: pages[2].fill(9)))
    reads = Ticket(0, (), gpu.start(2, lambda: None))
    other = Ticket(0, (), gpu.start(3, lambda: pages[3].fill(9)))
    pool.hazards.record([2], Access.WRITE, writes)
    pool.hazards.record([2], Access.READ, reads)
    pool.hazards.record([3], Access.WRITE, other)
    gather_slots(pool, [1, 2], slots)
    assert set(slots.object_view(1)) == {9} and writes.query()


def test_a_scatter_waits_for_who_reads_its_pages() -> None:
    pool, slots = pool_and_slots()
    gpu = FakeGpu(0)
    seen = []
    reads = Ticket(0, (), gpu.start(1, lambda: seen.append(pool.array.copy())))
    pool.hazards.record([2], Access.READ, reads)
    before = pool.array.copy()
    assert scatter_slots(slots, pool, [2]) == [True]
    assert reads.query() and np.array_equal(seen[0], before)
