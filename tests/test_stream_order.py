"""Copies come after what the producers of their arrays still do on streams of their own.

On the emulated CUDA, whose streams run late and in any order that their events allow: where an
order is missing, some seeds end with other bytes.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from array_objects import HandMade, OnlyDlpack
from emulated_cuda import EmulatedArray, emulated_cuda, pinned

from hicache_ext import _C, arrays
from hicache_ext.copy import copy_pages
from hicache_ext.errors import CudaError, LayoutError
from hicache_ext.layout import LayoutSpec, PagedBuffer

SPEC = LayoutSpec.make(
    "page_unified", num_pages=4, page_size=2, num_layers=1, num_heads=1, head_bytes=8
)
ALL = range(4)


class InUse(EmulatedArray):
    """A GPU array whose producer works on a stream, and says so if `tells`."""

    def __init__(self, cuda: Any, content: np.ndarray, stream: int, tells: bool = True) -> None:
        super().__init__(cuda, content)
        self.stream = stream if tells else None

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        return {**super().__cuda_array_interface__, "stream": self.stream}


class OverDlpack:
    """The same memory over DLPack, whose producer orders the stream that it is told."""

    def __init__(self, array: InUse, cuda: Any, producer: int) -> None:
        self.made = HandMade(array.address, array.shape, device=(2, 0))
        self.streams: list[int] = []
        self._cuda, self._producer, self._keep = cuda, producer, array

    def __dlpack_device__(self) -> tuple[int, int]:
        return (2, 0)

    def __dlpack__(self, *, stream: int, **_: Any) -> object:
        self.streams.append(stream)
        if stream != -1:
            _C.order_streams(0, before=self._producer, after=0 if stream == 1 else stream)
        return self.made.__dlpack__()


def filled(value: int) -> np.ndarray:
    return np.full(SPEC.num_bytes, value, np.uint8)


def chain(seed: int, kind: str, tells: bool) -> bool:
    """A producer writes `middle` on its stream, a copy takes it on another one, and the producer's
    own next work writes what the copy is still reading: are the bytes right?"""
    with emulated_cuda(seed=seed) as cuda:
        producer, mine = cuda.create_stream(), cuda.create_stream()
        first = EmulatedArray(cuda, filled(1))
        middle = InUse(cuda, filled(2), producer, tells and kind == "interface")
        target = pinned(cuda, filled(3))
        plain = PagedBuffer(EmulatedArrayView(middle), SPEC)
        src = PagedBuffer(first, SPEC)
        writing = copy_pages(src, ALL, plain, ALL, stream=producer)
        shown: Any = middle
        if kind == "dlpack":
            shown = OverDlpack(middle, cuda, producer if tells else mine)
        buffer = PagedBuffer(shown, SPEC)
        ticket = copy_pages(buffer, ALL, PagedBuffer(target, SPEC), ALL, stream=mine)
        ticket.result()
        writing.wait()  # until here somebody holds it: dropping it waits, too
        if kind == "dlpack":
            assert shown.streams == [-1, mine]
        return bool((target == 1).all())


class EmulatedArrayView:
    """The memory of an array that says nothing of its stream."""

    def __init__(self, array: EmulatedArray) -> None:
        self.device = array.device
        self.__cuda_array_interface__ = {**array.__cuda_array_interface__, "stream": None}


@pytest.mark.parametrize("kind", ["interface", "dlpack"])
def test_a_source_is_read_after_its_producer_wrote_it(kind: str) -> None:
    assert all(chain(seed, kind, tells=True) for seed in range(20))
    assert not all(chain(seed, kind, tells=False) for seed in range(20)), "the control"


@pytest.mark.parametrize("tells", [True, False])
def test_a_destination_is_written_after_its_producer_read_it(tells: bool) -> None:
    ends = []
    for seed in range(20):
        with emulated_cuda(seed=seed) as cuda:
            producer, mine = cuda.create_stream(), cuda.create_stream()
            middle = InUse(cuda, filled(1), producer, tells)
            out, new = pinned(cuda, filled(0)), pinned(cuda, filled(2))
            plain = PagedBuffer(EmulatedArrayView(middle), SPEC)
            first = copy_pages(plain, ALL, PagedBuffer(out, SPEC), ALL, stream=producer)
            copy_pages(PagedBuffer(new, SPEC), ALL, PagedBuffer(middle, SPEC), ALL, stream=mine)
            first.result()
            ends.append(bool((out == 1).all()))
    assert all(ends) == tells


@pytest.mark.parametrize("tells", [True, False])
def test_page_ids_are_read_after_their_producer_wrote_them(tells: bool) -> None:
    ends = []
    for seed in range(20):
        with emulated_cuda(seed=seed) as cuda:
            producer, mine = cuda.create_stream(), cuda.create_stream()
            ids = InUse(cuda, np.zeros(4, np.int64), producer, tells)
            right = EmulatedArray(cuda, np.array([3, 2, 1, 0]))
            layout = LayoutSpec.make(
                "layer_first", num_pages=1, page_size=1, num_layers=1, num_heads=1, head_bytes=16
            )
            views = [PagedBuffer(EmulatedArrayView(a), layout) for a in (right, ids)]
            writing = copy_pages(views[0], [0], views[1], [0], stream=producer)
            source = EmulatedArray(cuda, np.repeat(np.arange(4, dtype=np.uint8), 32))
            target = pinned(cuda, filled(9))
            src, dst = PagedBuffer(source, SPEC), PagedBuffer(target, SPEC)
            copy_pages(src, ids, dst, ALL, stream=mine).wait()
            writing.wait()
            ends.append(target.reshape(4, 32)[:, 0].tolist() == [3, 2, 1, 0])
    assert all(ends) == tells


def calls_of(stream_of_producer: Any, stream: Any) -> list[str]:
    with emulated_cuda() as cuda:
        handles = {None: None, "default": 1, "a": cuda.create_stream(), "b": cuda.create_stream()}
        array = InUse(cuda, filled(1), handles[stream_of_producer])
        target = pinned(cuda, filled(0))
        cuda.take_calls()
        used = {"default": 0}.get(stream, handles.get(stream))
        src, dst = PagedBuffer(array, SPEC), PagedBuffer(target, SPEC)
        copy_pages(src, ALL, dst, ALL, executor="sm_reg", stream=used)
        calls = cuda.take_calls()
    numbers = {"default": "0", "a": "1", "b": "2", None: "0"}
    launch = next(i for i, call in enumerate(calls) if call.startswith("launch"))
    assert f"stream={numbers[stream or stream_of_producer]} " in calls[launch]
    return [call for call in calls[:launch] if "event=" in call]


def test_no_event_where_there_is_nothing_to_wait_for() -> None:
    assert calls_of(None, "a") == []
    assert calls_of("a", "a") == []
    assert calls_of("default", "default") == []
    assert calls_of("a", None) == []  # without a stream of its own the copy takes the producer's


def test_one_event_between_two_streams() -> None:
    for producer, number in (("default", 0), ("b", 2)):
        record, wait, destroy = calls_of(producer, "a")
        event = record.split()[1]
        assert record == f"record {event} stream={number}"
        assert wait == f"stream_wait stream=1 {event}"
        assert destroy == f"destroy {event}"  # which the wait outlives


def test_every_layer_of_a_table_has_its_producer() -> None:
    """One of them writes the second layer while the copy is asked for."""
    row = LayoutSpec.opaque(num_pages=4, row_bytes=8)
    ends = []
    for seed in range(10):
        with emulated_cuda(seed=seed) as cuda:
            producer, mine = cuda.create_stream(), cuda.create_stream()
            layers = [InUse(cuda, np.zeros((4, 8), np.uint8), producer, i == 1) for i in range(2)]
            ones = EmulatedArray(cuda, np.ones(32, np.uint8))
            second = PagedBuffer(EmulatedArrayView(layers[1]), row)
            writing = copy_pages(PagedBuffer(ones, row), ALL, second, ALL, stream=producer)
            table = PagedBuffer.from_tables(layers, axes="page,dim")
            out = pinned(cuda, np.zeros(2 * 32, np.uint8))
            packed = LayoutSpec.opaque(num_pages=4, row_bytes=8, num_layers=2)
            copy_pages(table, ALL, PagedBuffer(out, packed), ALL, stream=mine).wait()
            writing.wait()
            ends.append(out[32:].tolist() == [1] * 32)
    assert all(ends)


def test_a_producer_that_names_no_stream_that_can_be_is_refused() -> None:
    with emulated_cuda() as cuda:
        target = pinned(cuda, filled(0))
        for wrong in (0, -1, "a"):
            array = InUse(cuda, filled(1), wrong)
            with pytest.raises(LayoutError, match=f"stream={wrong!r} is no stream"):
                copy_pages(PagedBuffer(array, SPEC), ALL, PagedBuffer(target, SPEC), ALL, stream=0)
        array = InUse(cuda, filled(1), 0xDEAD)
        with pytest.raises(CudaError, match="no such stream"):
            copy_pages(PagedBuffer(array, SPEC), ALL, PagedBuffer(target, SPEC), ALL, stream=0)
        cuda.run_all()
        assert not target.any()


def test_dlpack_knows_the_legacy_default_stream_as_1() -> None:
    with emulated_cuda() as cuda:
        array = OverDlpack(InUse(cuda, filled(1), None), cuda, 0)
        target = pinned(cuda, filled(0))
        copy_pages(PagedBuffer(array, SPEC), ALL, PagedBuffer(target, SPEC), ALL).result()
        assert array.streams == [-1, 1] and (target == 1).all()
        del cuda


def test_what_is_captured_waits_for_nothing_outside_of_the_graph() -> None:
    with emulated_cuda() as cuda:
        producer, mine = cuda.create_stream(), cuda.create_stream()
        array = InUse(cuda, filled(1), producer)
        target = pinned(cuda, filled(0))
        cuda.begin_capture(mine)
        cuda.take_calls()
        ticket = copy_pages(
            PagedBuffer(array, SPEC), ALL, PagedBuffer(target, SPEC), ALL, stream=mine
        )
        assert not [call for call in cuda.take_calls() if "stream_wait" in call]
        cuda.end_capture(mine)
        cuda.replay(mine)
        cuda.run_all()
        assert (target == 1).all() and ticket.query()


# --- where things are -----------------------------------------------------------------------------


def test_cuda_is_asked_for_the_device_of_an_array_that_does_not_tell() -> None:
    with emulated_cuda(num_devices=3) as cuda:
        array = EmulatedArray(cuda, filled(1), device=2)
        assert arrays.view(array).device == "cuda:2"
        del array.device
        assert arrays.view(array).device == "cuda:2"
        assert arrays.view(OnlyDlpack(np.zeros(3))).device == "cpu"
        host = pinned(cuda, filled(0))
        assert _C.device_of_memory(host.ctypes.data) is None


def test_arrays_of_two_devices_are_no_copy() -> None:
    with emulated_cuda(num_devices=2) as cuda:
        one, two = (EmulatedArray(cuda, filled(1), device) for device in (0, 1))
        with pytest.raises(LayoutError, match="several GPUs: cuda:0, cuda:1"):
            copy_pages(PagedBuffer(one, SPEC), ALL, PagedBuffer(two, SPEC), ALL)
        two.device = one.device  # whoever says the wrong device is found out by CUDA
        with pytest.raises(CudaError, match=r"destination buffer .* lies on cuda:1"):
            copy_pages(PagedBuffer(one, SPEC), ALL, PagedBuffer(two, SPEC), ALL)
