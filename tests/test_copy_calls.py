"""What copies ask of CUDA: the calls and their order, recorded by the emulated runtime."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator

import numpy as np
import pytest
from copy_world import PAGE_BYTES, SIZES, World, batches, only, spec
from emulated_cuda import EmulatedArray, emulated_cuda

from hicache_ext import _C
from hicache_ext.copy import CopyPart, PlanSet, Priority, StagingRing, copy_pages
from hicache_ext.errors import CudaError
from hicache_ext.layout import LayoutSpec, PagedBuffer


@pytest.fixture
def cuda() -> Iterator[_C.CudaEmulator]:
    with emulated_cuda(seed=7) as emulator:
        yield emulator


@pytest.fixture
def world(cuda: _C.CudaEmulator) -> World:
    return World(cuda, spec("layer_first"), spec("page_unified"))


def test_a_batch_is_one_call(world: World) -> None:
    calls = world.to_host([5, 0, 2], executor="ce_batch")
    stream = world.stream >> 4 & 0xFF
    assert calls == [
        "create_event",
        f"copy_batch stream={stream} copies=24 bytes={3 * PAGE_BYTES} overlap",
        f"record event=0 stream={stream}",
    ]


def test_runs_that_follow_on_are_one_copy(cuda: _C.CudaEmulator) -> None:
    """Pages 2, 3, 4 lie side by side on both sides; 6 is alone, and so is 7 before it."""
    world = World(cuda, spec("page_unified"), spec("page_unified"))
    calls = world.to_device([2, 3, 4, 7, 6], executor="ce_batch")
    assert batches(calls) == [(3, 5 * PAGE_BYTES)]


def test_large_copies_are_cut_and_ask_for_no_overlap(cuda: _C.CudaEmulator) -> None:
    """16 MiB at a time: a larger one would hold up what comes after it. The flag that makes room
    for kernels is for copies up to 128 KiB."""
    big = spec("page_unified", num_pages=2, head_bytes=64 << 14)
    world = World(cuda, big, big)
    calls = world.to_host([0, 1], executor="ce_batch")
    assert batches(calls) == [(4, 64 << 20)] and "overlap" not in " ".join(calls)
    for head_bytes, has_flag in ((64 << 6, True), (64 << 7, False)):
        one = spec("page_unified", num_pages=1, head_bytes=head_bytes)  # 128 and 256 KiB
        calls = World(cuda, one, one).to_host([0], executor="ce_batch")
        assert only(calls, "copy_batch")[0].endswith("overlap") is has_flag


def test_long_lists_go_in_batches_of_512(cuda: _C.CudaEmulator) -> None:
    world = World(cuda, spec("layer_first", 200), spec("page_unified", 200))
    calls = world.to_host(list(range(0, 200, 2)), executor="ce_batch")
    assert [copies for copies, _ in batches(calls)] == [512, 288]


def test_no_copy_spans_two_registrations(cuda: _C.CudaEmulator) -> None:
    """14 pages in a row would be one copy, and lie in eight registrations. The emulator, like
    CUDA, refuses a copy that begins in one and ends in another."""
    host = _C.HostMemory(16 * PAGE_BYTES)
    pin_api, kept = registrations(cuda)
    host.pin(pin_api, PAGE_BYTES, max_chunk_bytes=2 * PAGE_BYTES)
    assert len(host.regions) == 8
    device = LayoutSpec.make("page_unified", num_pages=16, **SIZES)
    memory = EmulatedArray(cuda, np.arange(16 * PAGE_BYTES).astype(np.uint8))
    on_host = np.frombuffer(host, np.uint8)
    stream = cuda.create_stream()
    cuda.take_calls()
    src, dst = PagedBuffer(memory, device), PagedBuffer(on_host, device)
    pages = list(range(1, 15))
    ticket = copy_pages(src, pages, dst, pages, executor="ce_batch", stream=stream)
    calls = cuda.take_calls()
    assert ticket.result() == 14 * PAGE_BYTES
    assert batches(calls) == [(8, 14 * PAGE_BYTES)]
    middle = slice(PAGE_BYTES, 15 * PAGE_BYTES)
    np.testing.assert_array_equal(on_host[middle], memory.read()[middle])
    del on_host, src, dst, ticket
    host.close()
    assert kept


def registrations(cuda: _C.CudaEmulator) -> tuple[_C.PinApi, object]:
    """A PinApi that registers with the emulator, and what must live as long as it."""
    pin_type = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_size_t)
    unpin_type = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p)
    clear_type = ctypes.CFUNCTYPE(ctypes.c_int)

    def pin(address: int, num_bytes: int) -> int:
        cuda.register_host(address, num_bytes)
        return 0

    kept = (pin_type(pin), unpin_type(lambda address: 0), clear_type(lambda: 0))
    addresses = [ctypes.cast(fn, ctypes.c_void_p).value or 0 for fn in kept]
    return _C.PinApi(*addresses), kept


@pytest.mark.parametrize("stream", [0, 1])
def test_the_legacy_stream_gets_copies_one_by_one(world: World, stream: int) -> None:
    """The batched call refuses it: NULL and its other name, cudaStreamLegacy."""
    calls = world.to_host([1, 3], executor="ce_batch", stream=stream)
    assert batches(calls) == [] and len(only(calls, f"copy stream={stream} ")) == 16


def test_an_older_driver_gets_copies_one_by_one() -> None:
    with emulated_cuda(has_batches=False) as cuda:
        world = World(cuda, spec("layer_first", 200), spec("page_unified", 200))
        calls = world.to_device(list(range(0, 200, 2)), executor="ce_batch")
        assert len(only(calls, "copy_batch")) == 1 and len(only(calls, "copy stream")) == 800


def test_priority_runs_beside_the_callers_stream(world: World) -> None:
    first = world.to_host([0, 1], executor="sm_reg", priority=Priority.HIGH)
    second = world.to_host([2], executor="sm_reg", priority=Priority.HIGH)
    caller = f"stream={world.stream >> 4 & 0xFF}"
    assert only(first, "create_stream") == ["create_stream high"]
    assert only(second, "create_stream") == []
    low = world.to_host([3], executor="ce_batch", priority=Priority.LOW)
    assert only(low, "create_stream") == ["create_stream low"]
    for calls, own in ((first, "stream=2"), (second, "stream=2"), (low, "stream=3")):
        steps = [call for call in calls if caller in call or own in call]
        event = steps[0].split()[1]
        assert steps[:2] == [f"record {event} {caller}", f"stream_wait {own} {event}"]
        assert steps[-1] == f"record {event} {own}"
        assert not any(caller in step for step in steps[1:])


def test_ids_cost_one_upload_and_no_allocation_when_warm(world: World) -> None:
    cold = world.to_device([1, 2], executor="sm_reg")
    world.cuda.take_calls()
    warm = world.to_device([4, 2, 3], executor="sm_reg")
    assert len(only(cold, "allocate")) == 2
    assert [call.split()[0] for call in warm] == ["create_event", "copy", "launch", "record"]


def test_code_is_loaded_once(world: World) -> None:
    loads = [only(world.to_device([1], executor="sm_reg"), "preload") for _ in range(2)]
    assert loads == [["preload short_runs"], []]
    assert only(world.to_device([1], executor="sm_bulk"), "preload") == ["preload bulk"]


@pytest.mark.parametrize(
    ("executor", "options", "num_blocks"),
    [
        ("sm_reg", {}, 4),  # the host takes part: what fills a link
        ("sm_reg", {"num_sms": 7}, 7),
        ("sm_reg", {"num_sms": 1000}, 13),  # 1600 runs, 128 at a time in each
        ("staged", {}, 8),  # device memory alone: a quarter of the SMs
        ("staged", {"num_sms": 2}, 2),
    ],
)
def test_the_quota_of_sms(executor: str, options: dict[str, int], num_blocks: int) -> None:
    with emulated_cuda(num_sms=32) as cuda:
        world = World(cuda, spec("layer_first", 200), spec("page_unified", 200))
        calls = world.to_host(list(range(200)), executor=executor, **options)
        (launch,) = only(calls, "launch")
        assert launch.endswith(f"blocks={num_blocks}")


@pytest.mark.parametrize("executor", ["sm_reg", "sm_bulk", "ce_batch", "staged"])
@pytest.mark.parametrize("direction", ["to_host", "to_device"])
def test_a_failing_call_leaves_nothing_in_flight(executor: str, direction: str) -> None:
    """Whichever call fails: all that runs is drained before the error is raised, the next copy is
    whole, and nothing is left behind."""
    nth = 0
    while True:
        with emulated_cuda(seed=nth) as cuda:
            world = World(cuda, spec("layer_first"), spec("page_unified"))
            ring = StagingRing(num_bytes=2 * 2 * PAGE_BYTES)
            getattr(world, direction)([7], executor=executor, staging=ring)  # the slots are warm
            cuda.fail_call_after(nth)
            try:
                getattr(world, direction)([5, 1, 4], executor=executor, staging=ring)
            except CudaError as error:
                assert "emulated failure" in str(error) and cuda.num_pending == 0
            else:
                break
            getattr(world, direction)([0, 2, 3, 6], executor=executor, staging=ring)
        nth += 1
    assert nth >= (3 if executor == "ce_batch" else 4)


def test_work_that_fails_on_the_device_is_told_by_the_ticket() -> None:
    with emulated_cuda(fail_work=1) as cuda:
        world = World(cuda, spec("layer_first"), spec("page_unified"))
        src, dst = world.device, world.host
        ticket = copy_pages(src, [0], dst, [0], executor="sm_reg", stream=world.stream)
        with pytest.raises(CudaError, match="on the device"):
            ticket.result()
        assert ticket.query() and cuda.num_pending == 0


def test_a_dropped_ticket_waits(world: World) -> None:
    for _ in range(3):  # page ids in recycled memory: each copy still has its own
        for page in range(4):
            options = dict(executor="sm_reg", stream=world.stream)
            copy_pages(world.device, [page], world.host, [page], **options)
            assert world.cuda.num_pending == 0
    np.testing.assert_array_equal(world.pages(world.host)[:4], world.pages(world.device)[:4])


def test_the_native_ticket_waits_as_well(world: World) -> None:
    parts = PlanSet([CopyPart(world.device, [3], world.host, [4])])
    native = _C.copy_on_stream(
        parts.native, executor="sm_reg", device=0, num_sms=1, stream=world.stream
    )
    assert world.cuda.num_pending > 0
    del native
    assert world.cuda.num_pending == 0


def test_tickets_that_run_share_no_memory(world: World) -> None:
    options = dict(executor="sm_reg", stream=world.stream)
    world.to_host([0], executor="sm_reg")  # its memory for page ids is free again
    tickets = [copy_pages(world.device, [i], world.host, [7 - i], **options) for i in range(8)]
    assert sum(ticket.result() for ticket in tickets) == 8 * PAGE_BYTES
    np.testing.assert_array_equal(world.pages(world.host), world.pages(world.device)[::-1])
