"""Pages of a pool under running copies: what alloc, free and close do."""

from typing import Any

import numpy as np
import pytest
from emulated_cuda import EmulatedArray, emulated_cuda
from fake_gpu import FakeGpu

from hicache_ext.copy import copy_pages
from hicache_ext.errors import CudaError, LifetimeError
from hicache_ext.layout import LayoutSpec, PagedBuffer
from hicache_ext.pool import Access, DevicePool, HostPool, PagePool, PageState
from hicache_ext.ticket import Ticket

SPEC = LayoutSpec.make(
    "page_unified", num_pages=4, page_size=2, num_layers=1, num_heads=1, head_bytes=8
)


@pytest.fixture(params=[HostPool, DevicePool])
def pool(request) -> PagePool:
    return request.param(SPEC, name="full")


def copying(pool: PagePool, page_ids: list[int], access: Access, **fate) -> Ticket:
    gpu = FakeGpu(0)
    ticket = Ticket(0, (pool.buffer,), gpu.start(1, lambda: None, **fate))
    pool.hazards.record(page_ids, access, ticket)
    return ticket


@pytest.mark.parametrize("access", list(Access))
def test_a_freed_page_is_handed_out_again_when_its_copy_is_done(pool, access) -> None:
    ids = pool.alloc(4)
    ticket = copying(pool, ids[1:2], access)
    pool.free(ids)  # at once: the ledger is the same on every rank, whatever its copies do
    assert pool.num_free == 4
    assert pool.alloc(1) == ids[:1] and not ticket.query()
    assert pool.alloc(1) == ids[1:2] and ticket.query()


def test_alloc_for_a_stream_lets_the_stream_wait(pool) -> None:
    pool.free(ids := pool.alloc(4))
    ticket = copying(pool, ids, Access.READ)
    assert pool.alloc(4, stream=7) == ids
    gpu = ticket._running._gpu
    assert not ticket.query() and list(gpu.streams[7]) == [ticket._running]


@pytest.mark.parametrize("state", [PageState.RESERVED, PageState.IO, PageState.ATTACHED])
def test_alloc_that_cannot_wait_takes_nothing(pool, state) -> None:
    pool.free(ids := pool.alloc(4))
    ticket = copying(pool, ids, Access.READ)
    with pytest.raises(ValueError, match="not a CUDA stream"):
        pool.alloc(2, state, stream="one")
    assert pool.num_free == 4
    pool.allocator.check_integrity()
    ticket.wait()


def test_a_failed_copy_does_not_keep_its_pages(pool) -> None:
    pool.free(ids := pool.alloc(4))
    ticket = copying(pool, ids, Access.WRITE, fails=CudaError("told by the ticket"))
    assert pool.alloc(4) == ids
    with pytest.raises(CudaError, match="told by the ticket"):
        ticket.result()


def test_a_kernel_of_the_callers_own_waits(pool) -> None:
    ticket = copying(pool, [2], Access.READ)
    pool.wait_for_copies([2], Access.READ)
    pool.wait_for_copies([0, 1, 3], Access.WRITE)
    assert not ticket.query()
    pool.wait_for_copies(None, Access.WRITE)
    assert ticket.query()


def test_close_refuses_under_a_copy_and_names_the_pages(pool) -> None:
    ticket = copying(pool, [3, 1], Access.READ)
    with pytest.raises(LifetimeError, match=r"'full': close: copies .* 2 pages: \[1, 3\]"):
        pool.close()
    assert not pool.is_closed and pool.buffer.address
    ticket.wait()
    pool.close()  # the ticket lives on, but owns nothing any more
    assert pool.is_closed and ticket.query()


def test_memory_refuses_to_close_under_a_copy_that_no_pool_knows(pool) -> None:
    if not isinstance(pool, HostPool):
        pytest.skip("torch keeps what a ticket holds")
    gpu = FakeGpu(0)
    ticket = Ticket(0, (pool.buffer,), gpu.start(1, lambda: None))
    for closing in (pool.close, pool.memory.close):
        with pytest.raises(LifetimeError, match=f"views of the host memory of {SPEC.num_bytes} "):
            closing()
    ticket.wait()
    pool.close()


# --- copies --------------------------------------------------------------------------------------


def waits_of(cuda: Any) -> list[str]:
    return [call for call in cuda.take_calls() if call.startswith("stream_wait")]


def pinned_pools(cuda: Any) -> tuple[PagePool, PagePool]:
    pools = DevicePool(SPEC, name="l1"), HostPool(SPEC, name="l2")
    for pool in pools:
        cuda.register_host(pool.buffer.address, pool.spec.num_bytes)
    return pools


def test_copies_from_one_page_share_it_and_those_to_it_queue() -> None:
    with emulated_cuda() as cuda:
        device, host = pinned_pools(cuda)
        on = [{"executor": "sm_reg", "stream": cuda.create_stream()} for _ in range(3)]
        other = [
            PagedBuffer(EmulatedArray(cuda, np.zeros(SPEC.num_bytes, np.uint8)), SPEC) for _ in "ab"
        ]
        busy = [copy_pages(other[0], [0], other[1], [0], **on[i % 2]) for i in range(20)]
        first = copy_pages(device.buffer, [0, 1], host.buffer, [0, 1], **on[0])
        second = copy_pages(device.buffer, [1, 2], host.buffer, [2, 3], **on[1])
        assert waits_of(cuda) == []
        third = copy_pages(device.buffer, [3, -1], host.buffer, [3, 0], **on[2])
        assert len(waits_of(cuda)) == 2, "it overwrites a page of each"
        assert not busy[-1].query()
        assert third.result() == SPEC.page_bytes
        assert first.query() and second.query()


@pytest.mark.parametrize("executor", ["cpu_ref", "cpu"])
def test_a_copy_on_the_cpu_waits_for_those_on_streams(executor: str) -> None:
    with emulated_cuda(queries_per_step=1000) as cuda:
        device, host = pinned_pools(cuda)
        device.poison([0], 7)
        running = copy_pages(device.buffer, [0], host.buffer, [1], executor="sm_reg", stream=0)
        out = PagedBuffer(np.zeros(SPEC.num_bytes, np.uint8), SPEC)
        copy_pages(host.buffer, [0], out, [0], executor=executor)
        assert not running.query(), "it reads another page"
        copy_pages(host.buffer, [1], out, [1], executor=executor)
        assert out.array.reshape(4, -1)[1].tolist() == [7] * SPEC.page_bytes and running.query()


def test_ids_that_only_the_gpu_knows_stand_for_every_page() -> None:
    with emulated_cuda() as cuda:
        device, host = pinned_pools(cuda)
        ids = EmulatedArray(cuda, np.array([1]))
        ticket = copy_pages(device.buffer, ids, host.buffer, [2], executor="sm_reg")
        serials = [pool.hazards._last_read.tolist() for pool in (device, host)]
        assert serials == [[1, 1, 1, 1], [0, 0, 0, 0]]
        assert host.hazards._last_write.tolist() == [0, 0, 1, 0]
        ticket.wait()


def test_a_graph_neither_waits_nor_is_waited_for() -> None:
    with emulated_cuda(queries_per_step=1000) as cuda:  # asking does not make it run
        device, host = pinned_pools(cuda)
        mine, other = cuda.create_stream(), cuda.create_stream()
        running = copy_pages(device.buffer, [0], host.buffer, [0], executor="sm_reg", stream=other)
        cuda.begin_capture(mine)
        captured = copy_pages(device.buffer, [1], host.buffer, [0], executor="sm_reg", stream=mine)
        cuda.end_capture(mine)
        assert waits_of(cuda) == []
        assert host.hazards.running([0], Access.WRITE) == [running]
        running.wait()
        assert captured.query() and host.hazards.pages() == []


def test_a_copy_that_does_not_start_leaves_no_trace() -> None:
    device, host = DevicePool(SPEC, name="l1"), HostPool(SPEC, name="l2")
    for bad in ([4], [0, 1]):
        with pytest.raises(ValueError, match=r"page id|id counts"):
            copy_pages(device.buffer, bad, host.buffer, [0])
    copy_pages(device.buffer, [0], host.buffer, [0]).result()
    assert device.hazards._batches == host.hazards._batches == {}
