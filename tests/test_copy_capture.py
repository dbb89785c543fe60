"""Copies inside of a CUDA graph, on the emulated runtime."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from emulated_cuda import EmulatedArray, emulated_cuda, pinned

from hicache_ext import _C
from hicache_ext.copy import LayoutSpec, PagedBuffer, Priority, Ticket, copy_pages
from hicache_ext.errors import CudaError, PageIndexError

SPEC = LayoutSpec.make(
    "layer_first", num_pages=6, page_size=2, num_layers=3, num_heads=2, head_bytes=32
)
PAGES = (SPEC.num_layers * SPEC.num_kv, SPEC.num_pages, -1)


class World:
    """Host pages of one value each, GPU pages of zeros, and a stream that is being captured."""

    def __init__(self, cuda: _C.CudaEmulator) -> None:
        self.cuda, self.stream = cuda, cuda.create_stream()
        values = np.broadcast_to(np.arange(1, 7, dtype=np.uint8)[:, None], (6, 64 * 2))
        self.on_host = np.ascontiguousarray(np.broadcast_to(values, (6, 6, 64 * 2))).reshape(-1)
        pinned(cuda, self.on_host)
        self.on_device = EmulatedArray(cuda, np.zeros(SPEC.num_bytes, np.uint8))
        self.host = PagedBuffer(self.on_host, SPEC)
        self.device = PagedBuffer(self.on_device, SPEC)

    def capture(self, src_ids: object, dst_ids: object, **options: object) -> Ticket:
        self.cuda.begin_capture(self.stream)
        try:
            return copy_pages(
                self.host, src_ids, self.device, dst_ids, stream=self.stream, **options
            )
        finally:
            self.cuda.end_capture(self.stream)

    def replay(self) -> list[int]:
        """The value of each GPU page after one more replay."""
        self.cuda.replay(self.stream)
        self.cuda.run_all()
        pages = self.on_device.read().reshape(PAGES)
        assert (pages == pages[:1, :, :1]).all()
        return [int(value) for value in pages[0, :, 0]]


@pytest.fixture
def world() -> Iterator[World]:
    with emulated_cuda(seed=3) as cuda:
        yield World(cuda)


@pytest.mark.parametrize("executor", ["sm_reg", "sm_bulk", "ce_batch", "auto"])
def test_nothing_runs_before_the_replay(world: World, executor: str) -> None:
    ticket = world.capture([0, 4], [5, 1], executor=executor)
    world.cuda.run_all()
    assert (world.on_device.read() == 0).all()
    assert ticket.query()
    ticket.wait()
    assert world.replay() == [0, 5, 0, 0, 0, 1]
    assert ticket.result() == 2 * SPEC.page_bytes
    world.on_host[:] += 10
    assert world.replay() == [0, 15, 0, 0, 0, 11]


def test_ce_batch_is_captured_copy_by_copy(world: World) -> None:
    world.cuda.take_calls()
    world.capture([0], [0], executor="ce_batch")
    calls = world.cuda.take_calls()
    assert not any(call.startswith("copy_batch") for call in calls)
    assert sum(call.startswith("copy ") for call in calls) == SPEC.num_layers * SPEC.num_kv


@pytest.mark.parametrize("executor", ["sm_reg", "sm_bulk"])
def test_ids_on_the_gpu_are_read_at_each_replay(world: World, executor: str) -> None:
    ids = EmulatedArray(world.cuda, np.array([2, 3]))
    where = EmulatedArray(world.cuda, np.array([0, 1], np.int32))
    ticket = world.capture(ids, where, executor=executor)
    assert world.replay() == [3, 4, 0, 0, 0, 0]
    assert ticket.result() == 2 * SPEC.page_bytes
    write(ids, [5, -1])
    assert world.replay() == [6, 4, 0, 0, 0, 0]
    assert ticket.result() == SPEC.page_bytes  # of the last replay alone
    write(ids, [1, 9])
    assert world.replay() == [2, 4, 0, 0, 0, 0]
    with pytest.raises(PageIndexError, match=r"source.*position=1 value=9 num_pages=6"):
        ticket.result()


def write(array: EmulatedArray, values: list[int]) -> None:
    import ctypes

    new = np.array(values, array.dtype)
    ctypes.memmove(array.address, new.ctypes.data, new.nbytes)


def test_ids_on_the_host_belong_to_the_ticket(world: World) -> None:
    """The graph keeps what was captured: other copies do not get the memory of its ids."""
    ids = np.array([3, 1])
    ticket = world.capture(ids, [0, 2], executor="sm_reg")
    ids[:] = 5
    for page in range(3):
        copy_pages(world.host, [5], world.device, [5], executor="sm_reg", stream=world.stream)
        assert world.replay()[:3] == [4, 0, 2], page
    assert ticket.result() == 2 * SPEC.page_bytes


def test_the_ticket_owns_the_buffers_as_long_as_it_lives(world: World) -> None:
    import gc
    import weakref

    seen = weakref.ref(world.host)
    ticket = world.capture([0], [0], executor="sm_reg")
    ticket.wait()
    del world.host
    gc.collect()
    assert seen() is not None
    del ticket
    gc.collect()
    assert seen() is None


def test_a_warm_capture_allocates_and_waits_for_nothing(world: World) -> None:
    copy_pages(world.host, [0], world.device, [0], executor="sm_reg", stream=world.stream).wait()
    world.cuda.take_calls()
    ticket = world.capture([1], [1], executor="sm_reg")
    kinds = [call.split()[0] for call in world.cuda.take_calls()]
    assert kinds == ["create_event", "copy", "launch", "record"]
    assert ticket.query()


def test_what_cannot_be_captured(world: World) -> None:
    world.cuda.take_calls()
    with pytest.raises(CudaError, match="staged cannot be captured"):
        world.capture([0], [0], executor="staged")
    with pytest.raises(CudaError, match="priority"):
        world.capture([0], [0], executor="sm_reg", priority=Priority.HIGH)
    assert world.cuda.take_calls() == []
    assert world.replay() == [0] * 6
