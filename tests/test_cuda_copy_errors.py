"""Bad input of copies on a stream: a typed error with the values, and nothing is enqueued."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from copy_world import PAGE_BYTES, World, spec
from emulated_cuda import EmulatedArray, emulated_cuda

from hicache_ext import _C
from hicache_ext.copy import CopyPart, PagedBuffer, PlanSet, StagingRing, copy_pages, copy_set
from hicache_ext.errors import CudaError, LayoutError, PageIndexError

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


@pytest.mark.parametrize("executor", NAMES)
def test_ids_out_of_range(world: World, executor: str) -> None:
    options = dict(executor=executor)
    source = "source page id out of range: position=1 value=8 num_pages=8"
    refused(world, PageIndexError, source, src_ids=[0, 8], dst_ids=[0, 1], **options)
    twice = "destination page id twice: position=1 value=3"
    refused(world, PageIndexError, twice, src_ids=[0, 1], dst_ids=[3, 3], **options)


@pytest.mark.parametrize("quota", [0, -1, math.nan, math.inf, 2.0, True, "4"])
def test_quotas(world: World, quota: Any) -> None:
    refused(world, LayoutError, f"num_sms={quota!r} must be a whole number", num_sms=quota)
    refused(world, LayoutError, f"num_threads={quota!r} must be a whole", num_threads=quota)


def test_unknown_executors_and_wrong_options(world: World) -> None:
    refused(world, LayoutError, "executor 'sm_tma' is none of auto, cpu_ref", executor="sm_tma")
    refused(world, LayoutError, "executor cpu cannot reach a buffer on cuda:0", executor="cpu")
    refused(world, LayoutError, "priority='high' is no Priority", priority="high")
    refused(world, LayoutError, "staging=64 is no StagingRing", staging=64)


@pytest.mark.parametrize("executor", NAMES)
def test_a_stream_of_another_gpu(world: World, executor: str) -> None:
    other = world.cuda.create_stream(1)
    match = "the stream is one of cuda:1, the copy runs on cuda:0"
    refused(world, CudaError, match, executor=executor, stream=other)
    refused(world, CudaError, "no such stream", executor=executor, stream=4096 * 77)


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


@pytest.mark.parametrize("executor", NAMES)
def test_host_memory_that_cuda_does_not_know(world: World, executor: str) -> None:
    memory = np.zeros(world.host.spec.num_bytes, np.uint8)
    pageable = PagedBuffer(memory, world.host.spec)
    match = r"destination buffer of part=0 at 0x\w+ is host memory that CUDA does not know: pin it"
    refused(world, CudaError, match, executor=executor, dst=pageable)
    refused(world, CudaError, "source buffer", executor=executor, src=pageable, dst=world.device)


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


@pytest.mark.parametrize("executor", ON_HOST)
@pytest.mark.parametrize("side", ["source", "destination"])
def test_ids_on_the_gpu_where_the_host_needs_them(world: World, executor: str, side: str) -> None:
    ids = {"src_ids" if side == "source" else "dst_ids": EmulatedArray(world.cuda, np.array([1]))}
    match = f"{executor} needs page ids on the host: the {side} ids of part=0 lie on the device"
    refused(world, LayoutError, match, executor=executor, **ids)


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
    with pytest.raises(LayoutError, match="num_bytes=0"):
        StagingRing(num_bytes=0)
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


def test_a_build_without_cuda() -> None:
    if _C.with_cuda:
        pytest.skip("this build has a CUDA part")
    memory = [np.zeros(spec("layer_first").num_bytes, np.uint8) for _ in range(2)]
    src, dst = (PagedBuffer(array, spec("layer_first")) for array in memory)
    for executor in NAMES:
        with pytest.raises(CudaError, match="this build of hicache_ext has no CUDA part"):
            copy_pages(src, [0], dst, [0], executor=executor)
