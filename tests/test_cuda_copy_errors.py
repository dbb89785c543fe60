"""Bad input of copies on a stream: a typed error with the values, and nothing is enqueued."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from copy_world import PAGE_BYTES, World, spec
from emulated_cuda import EmulatedArray, emulated_cuda

from hicache_ext.copy import CopyPart, PagedBuffer, PlanSet, StagingRing, copy_pages, copy_set
from hicache_ext.errors import CudaError, LayoutError

NAMES = ("sm_reg", "sm_bulk", "ce_batch", "staged")
ON_HOST = ("ce_batch", "staged")  # their page ids


@pytest.fixture
def world() -> Iterator[World]:
    with emulated_cuda(num_devices=2) as cuda:
        yield World(cuda, spec("layer_first"), spec("page_unified"))


def refused(world: World, error: type[Exception], match: str, **options: Any) -> None:
    """The copy of page 1 back to the host, or what `options` makes of it."""
    src, dst = options.pop("src", world.device), options.pop("dst", world.host)
    src_ids, dst_ids = options.pop("src_ids", [1]), options.pop("dst_ids", [1])
    before = world.on_host.copy(), world.on_device.read()
    world.cuda.take_calls()
    with pytest.raises(error, match=match):
        copy_pages(src, src_ids, dst, dst_ids, **{"stream": world.stream, **options})
    assert world.cuda.take_calls() == []
    world.cuda.run_all()
    np.testing.assert_array_equal(world.on_host, before[0])
    np.testing.assert_array_equal(world.on_device.read(), before[1])


def test_a_gpu_that_is_not_there(world: World) -> None:
    far = PagedBuffer(EmulatedArray(world.cuda, world.on_device.read(), 1), world.device.spec)
    far.device = "cuda:7"
    refused(world, CudaError, "device=7 num_devices=2", src=far)
    with pytest.raises(CudaError, match="device=7"):
        StagingRing(device=7)


def test_a_buffer_that_lies_on_another_gpu_than_it_says(world: World) -> None:
    far = PagedBuffer(EmulatedArray(world.cuda, world.on_device.read(), 1), world.device.spec)
    far.device = "cuda:0"
    refused(world, CudaError, r"source buffer of part=0 at 0x\w+ lies on cuda:1", src=far)


def test_a_pageable_plane_of_a_table(world: World) -> None:
    """One layer of a host-side table is not pinned: it is found among the others."""
    s = world.device.spec
    shape = (s.num_pages, s.page_size, s.num_heads, s.head_bytes)
    layers = [np.zeros(shape, np.uint8) for _ in range(2 * s.num_layers)]
    for layer in layers[:-1]:
        world.cuda.register_host(layer.ctypes.data, layer.nbytes)
    table = PagedBuffer.from_tables(layers[::2], layers[1::2], axes="page,token,head,dim")
    for executor in NAMES:
        match = f"destination buffer of part=0 at {layers[-1].ctypes.data:#x}"
        refused(world, CudaError, match, executor=executor, dst=table)


def test_where_kernels_read_pageable_memory() -> None:
    """Grace and the like: the same copy is legal there."""
    with emulated_cuda(reads_pageable=True) as cuda:
        world = World(cuda, spec("layer_first"), spec("page_unified"))
        memory = np.zeros(world.host.spec.num_bytes, np.uint8)
        pageable = PagedBuffer(memory, world.host.spec)
        copied = copy_pages(world.device, [1], pageable, [0], stream=world.stream).result()
        assert copied == PAGE_BYTES and memory[:PAGE_BYTES].any()


def test_sm_bulk_before_sm_90() -> None:
    with emulated_cuda(compute_major=8) as cuda:
        world = World(cuda, spec("layer_first"), spec("page_unified"))
        match = "sm_bulk needs compute capability 9.0 or later, cuda:0 has 8"
        refused(world, CudaError, match, executor="sm_bulk")


def test_sm_bulk_without_room_for_a_ring() -> None:
    with emulated_cuda(max_shared_bytes=48 << 10) as cuda:
        world = World(cuda, spec("layer_first"), spec("page_unified"))
        match = "sm_bulk needs 65568 bytes of shared memory for a block, cuda:0 has 49152"
        refused(world, CudaError, match, executor="sm_bulk")
    with emulated_cuda(max_shared_bytes=99 << 10) as cuda:  # sm_120
        world = World(cuda, spec("layer_first"), spec("page_unified"))
        world.to_host([1, 2], executor="sm_bulk")


def test_sm_bulk_of_odd_runs_and_addresses(world: World) -> None:
    odd = World(world.cuda, spec("layer_first", head_bytes=65), spec("page_unified", head_bytes=65))
    match = "sm_bulk moves runs that are aligned to 16 bytes: part=0 has run_bytes=260 aligned to"
    refused(odd, LayoutError, match, executor="sm_bulk")
    memory = np.zeros(world.host.spec.num_bytes + 64, np.uint8)
    world.cuda.register_host(memory.ctypes.data, memory.nbytes)
    start = -memory.ctypes.data % 16 + 8
    shifted = PagedBuffer(memory[start : start + world.host.spec.num_bytes], world.host.spec)
    match = "sm_bulk needs buffers at multiples of 16 bytes: part=0"
    refused(world, LayoutError, match, executor="sm_bulk", dst=shifted)


def test_staged_goes_between_gpu_and_host(world: World) -> None:
    there = EmulatedArray(world.cuda, np.zeros(world.host.spec.num_bytes, np.uint8))
    other = PagedBuffer(there, world.host.spec)
    match = "staged copies go between the device and the host, in one direction"
    refused(world, LayoutError, match, executor="staged", dst=other)
    back = PagedBuffer(world.on_host.copy(), world.host.spec)
    world.cuda.register_host(back.address, world.host.spec.num_bytes)
    ways = [CopyPart(world.device, [0], world.host, [0]), CopyPart(back, [1], other, [1])]
    with pytest.raises(LayoutError, match=match):
        copy_set(PlanSet(ways), executor="staged", stream=world.stream)


def test_staging_that_does_not_fit(world: World) -> None:
    small = StagingRing(num_bytes=2 * PAGE_BYTES - 512)
    match = f"a page of part=0 takes {PAGE_BYTES} bytes, and a slot of the staging memory has 1792"
    refused(world, LayoutError, match, executor="staged", staging=small)
    far = StagingRing(device=1)
    match = "the staging memory lies on cuda:1, the copy runs on cuda:0"
    refused(world, CudaError, match, executor="staged", staging=far)
    with pytest.raises(LayoutError, match="too small"):
        StagingRing(num_bytes=511)
    for wrong in (0, -1, 1.5, True, math.nan, 2**70):
        with pytest.raises(LayoutError, match=f"num_bytes={wrong!r} must be a whole number"):
            StagingRing(num_bytes=wrong)
    for wrong in (-1, 0.0, True, "0", 2**31):
        with pytest.raises(LayoutError, match=f"device={wrong!r} must be a whole number"):
            StagingRing(device=wrong)
    with pytest.raises(LayoutError, match="not one on cpu"):
        StagingRing(np.zeros(4096, np.uint8))


def test_staging_of_the_caller(world: World) -> None:
    """It is used, kept alive, and not freed."""
    array = EmulatedArray(world.cuda, np.zeros(4 * PAGE_BYTES, np.uint8))
    ring = StagingRing(array)
    world.to_host([1, 3, 5], executor="staged", staging=ring)
    assert array.read().any()
    world.cuda.take_calls()
    del ring
    assert "free_device" not in world.cuda.take_calls()


def test_zero_pages(world: World) -> None:
    for executor in NAMES:
        for ids in ([], [-1, -1]):
            ticket = copy_pages(
                world.device, ids, world.host, ids, executor=executor, stream=world.stream
            )
            assert ticket.result() == 0
