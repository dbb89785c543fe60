"""What arrays of every kind say of themselves, and what is refused."""

import array
import gc
import mmap
import sys
import types
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from array_objects import HandMade, Interface, OldDlpack, OnlyDlpack, on_gpu

from hicache_ext import _C, arrays
from hicache_ext.copy import copy_pages, gather_pages
from hicache_ext.errors import LayoutError, LifetimeError
from hicache_ext.layout import LayoutSpec, PagedBuffer
from hicache_ext.page_ids import gpu_page_ids, host_page_ids, is_on_gpu
from hicache_ext.pool import HostBuffer

SPEC = LayoutSpec.make(
    "page_unified", num_pages=4, page_size=2, num_layers=1, num_heads=1, head_bytes=8
)
NUM_BYTES = SPEC.num_bytes  # 128

# --- every kind of array that can hold pages on the CPU -------------------------------------------

KINDS: dict[str, Callable[[np.ndarray], Any]] = {
    "numpy": lambda data: data,
    "numpy float32": lambda data: data.view(np.float32).reshape(4, 8),
    "torch": torch.from_numpy,
    "torch bfloat16": lambda data: torch.from_numpy(data).view(torch.bfloat16).reshape(2, 32),
    "torch fp8": lambda data: torch.from_numpy(data).view(torch.float8_e4m3fn),
    "array interface": lambda data: Interface(
        "__array_interface__", data, **data.__array_interface__
    ),
    "dlpack of numpy": OnlyDlpack,
    "dlpack of torch": lambda data: OnlyDlpack(torch.from_numpy(data).view(torch.bfloat16)),
    "dlpack before 1": lambda data: OldDlpack(torch.from_numpy(data)),
    "dlpack pinned": lambda data: HandMade(data.ctypes.data, data.shape, device=(3, 0)),
    "memoryview": memoryview,
    "memoryview of 4 bytes": lambda data: memoryview(data).cast("B").cast("I"),
}


@pytest.mark.parametrize("kind", KINDS)
def test_pages_go_from_and_to_every_kind_of_array(kind: str) -> None:
    values = np.arange(NUM_BYTES, dtype=np.uint8)
    source, target = values.copy(), np.full(NUM_BYTES, 0xEE, np.uint8)
    src, dst = (PagedBuffer(KINDS[kind](data), SPEC) for data in (source, target))
    assert (src.address, src.device) == (source.ctypes.data, "cpu")
    copy_pages(src, [0, 3], dst, [2, 1]).result()
    pages, before = target.reshape(4, 32), values.reshape(4, 32)
    assert (pages[2] == before[0]).all() and (pages[1] == before[3]).all()
    assert (pages[[0, 3]] == 0xEE).all() and (source == values).all()


def test_buffers_of_the_language() -> None:
    for memory in (bytearray(NUM_BYTES), mmap.mmap(-1, NUM_BYTES), array.array("B", [0] * 128)):
        dst = PagedBuffer(memory, SPEC)
        gather_pages(PagedBuffer(np.full(NUM_BYTES, 5, np.uint8), SPEC), range(4), dst).result()
        assert bytes(memory) == b"\5" * NUM_BYTES


def test_a_host_buffer_is_an_array_and_cannot_be_closed_under_a_paged_one() -> None:
    memory = HostBuffer(NUM_BYTES)
    buffer = PagedBuffer(memory, SPEC)
    assert buffer.address == memory.address
    with pytest.raises(LifetimeError, match="1 views"):
        memory.close()
    del buffer
    memory.close()
    with pytest.raises(LifetimeError, match="closed"):
        PagedBuffer(memory, SPEC)


# --- facts ---------------------------------------------------------------------------------------


def facts(seen: arrays.ArrayView) -> tuple:
    return seen.shape, seen.strides, seen.itemsize, seen.typestr, seen.device


def test_facts_of_strided_arrays_agree_between_frameworks() -> None:
    data = np.arange(60, dtype=np.float32).reshape(3, 4, 5)
    every = slice(None)
    for index in (
        (),
        (every, slice(1, 3)),
        slice(None, None, 2),
        (..., 0),
        (0, 0, 0),
        (every, slice(1, 3), slice(0)),
    ):
        cut, tensor = np.asarray(data[index]), torch.from_numpy(data)[index]
        if cut.base is None:
            cut = data[0, 0, :1].reshape(())  # NumPy copies an element, torch does not
        views = [arrays.view(x) for x in (cut, tensor, OnlyDlpack(tensor), OldDlpack(tensor))]
        interface = Interface("__array_interface__", cut, **cut.__array_interface__)
        views.append(arrays.view(interface))
        assert {v.is_contiguous for v in views} == {cut.flags.c_contiguous}
        assert {v.num_bytes for v in views} == {cut.nbytes}
        if cut.size > 1:
            assert {facts(v) for v in views} == {(cut.shape, cut.strides, 4, "float32", "cpu")}
            assert len({v.address for v in views}) == 1


@pytest.mark.parametrize(
    ("dtype", "name", "itemsize"),
    [
        ((0, 32, 1), "int32", 4),
        ((0, 64, 1), "int64", 8),
        ((4, 16, 1), "bfloat16", 2),
        ((2, 16, 2), "float16x2", 4),
        ((6, 8, 1), "bool8", 1),
        ((99, 8, 1), "opaque8", 1),
        ((17, 4, 2), "opaque4x2", 1),
    ],
)
def test_dtypes_of_dlpack(dtype, name: str, itemsize: int) -> None:
    seen = arrays.view(HandMade(4096, (2, 3), dtype=dtype, byte_offset=64))
    assert (seen.typestr, seen.itemsize, seen.num_bytes) == (name, itemsize, 6 * itemsize)
    assert seen.address == 4160 and seen.strides == (3 * itemsize, itemsize)


@pytest.mark.parametrize(
    ("device", "name"),
    [((1, 0), "cpu"), ((3, 1), "cpu"), ((2, 3), "cuda:3"), ((13, 1), "cuda:1")],
)
def test_devices_of_dlpack(device, name: str) -> None:
    made = HandMade(4096, (8,), device=device)
    assert arrays.view(made).device == name
    assert made.streams == [None if name == "cpu" else -1]  # looking at it orders nothing


def test_facts_of_gpu_arrays() -> None:
    seen = arrays.view(on_gpu(8192, (3, 4), "<f4"))
    assert facts(seen) == ((3, 4), (16, 4), 4, "float32", "cuda:0") and seen.is_contiguous
    strided = arrays.view(on_gpu(8192, (3, 4), "<i4", strides=(32, 4)))
    assert not strided.is_contiguous and strided.num_bytes == 48
    other = on_gpu(8192, (3,))
    other.device = types.SimpleNamespace(id=5)
    assert arrays.view(other).device == "cuda:5"
    assert arrays.view(on_gpu(0, (0, 4))).num_bytes == 0


# --- ownership -----------------------------------------------------------------------------------


@pytest.mark.parametrize("version", [None, (1, 0), (1, 9)])
def test_dlpack_is_given_back_once_when_the_buffer_dies(version) -> None:
    made = HandMade(4096, (NUM_BYTES,), device=(1, 0), version=version)
    buffer = PagedBuffer(made, SPEC)
    gc.collect()
    assert made.num_deleted == 0
    del buffer
    assert made.num_deleted == 1


def test_what_is_refused_is_given_back_too() -> None:
    for made, message in (
        (HandMade(4096, (8,), version=(2, 0)), "version 2 is not known"),
        (HandMade(4096, (8,), dtype=(2, 4, 1)), "4 bits x 1 are no whole bytes"),
        (HandMade(4096, (8,), device=(1, 0)), "the array has 8 bytes"),
    ):
        with pytest.raises(LayoutError, match=message):
            PagedBuffer(made, SPEC)
        assert made.num_deleted == 1


def test_a_capsule_is_read_once() -> None:
    capsule = torch.zeros(3).__dlpack__()
    _C.DlpackTensor(capsule)
    for wrong in (capsule, None, 3, object()):
        with pytest.raises(LayoutError, match="not a DLPack capsule"):
            _C.DlpackTensor(wrong)


# --- refusals ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ({"typestr": "nonsense"}, "nonsense"),
        ({"data": 4096}, "data"),
        ({"data": ("x", False)}, "'x'"),
        ({"shape": (-1,)}, r"shape=\(-1,\)"),
        ({"shape": 3}, "shape"),
        ({"strides": (1, 1)}, r"strides=\(1, 1\)"),
        ({"mask": np.ones(3)}, "mask"),
        ({"data": (0, False)}, "address 0"),
    ],
)
@pytest.mark.parametrize("protocol", ["__array_interface__", "__cuda_array_interface__"])
def test_broken_interfaces_say_what_is_broken(protocol: str, entries, message: str) -> None:
    good = {"data": (4096, False), "shape": (3,), "typestr": "|u1"}
    with pytest.raises(LayoutError, match=rf"{protocol} of Interface.*{message}"):
        arrays.view(Interface(protocol, **{**good, **entries}))
    for missing in good:
        rest = {name: value for name, value in good.items() if name != missing}
        with pytest.raises(LayoutError, match=rf"{protocol} of Interface: KeyError '{missing}'"):
            arrays.view(Interface(protocol, **rest))


def test_arrays_that_are_none_or_elsewhere() -> None:
    for wrong in (3, None, "text", [1, 2], object()):
        with pytest.raises(LayoutError, match=f"not an array: {type(wrong).__name__}"):
            arrays.view(wrong)
    with pytest.raises(LayoutError, match="device meta"):
        arrays.view(torch.zeros(3, device="meta"))
    with pytest.raises(LayoutError, match="sparse_coo has no strides"):
        arrays.view(torch.zeros(3, 3).to_sparse())
    with pytest.raises(LayoutError, match=r"kind 10 \(DLDeviceType\)"):
        arrays.view(HandMade(4096, (3,), device=(10, 0)))

    class Refuses(OnlyDlpack):
        def __dlpack__(self, **options: Any) -> object:
            raise BufferError("a copy would be needed")

    with pytest.raises(LayoutError, match="__dlpack__ of Refuses: a copy would be needed"):
        arrays.view(Refuses(torch.zeros(3)))


def test_read_only_is_seen_in_every_protocol() -> None:
    frozen = np.zeros(NUM_BYTES, np.uint8)
    frozen.flags.writeable = False
    interface = Interface("__array_interface__", frozen, **frozen.__array_interface__)
    made = HandMade(frozen.ctypes.data, (NUM_BYTES,), device=(1, 0), is_read_only=True)
    on_device = Interface("__cuda_array_interface__", data=(4096, True), shape=(3,), typestr="|u1")
    kinds = (frozen, bytes(NUM_BYTES), interface, OnlyDlpack(frozen), made, on_device)
    assert [arrays.view(kind).is_writable for kind in kinds] == [False] * len(kinds)


# --- page ids ------------------------------------------------------------------------------------


def test_page_ids_of_every_kind() -> None:
    data = np.array([3, -1, 2], np.int32)
    kinds = [
        data,
        data.astype(np.int64),
        torch.from_numpy(data),
        OnlyDlpack(torch.from_numpy(data)),
        OldDlpack(torch.from_numpy(data)),
        Interface("__array_interface__", data, **data.__array_interface__),
        array.array("q", data),
        memoryview(data),
        (3, -1, 2),
        [np.int32(3), -1, np.int64(2)],
    ]
    for ids in kinds:
        assert not is_on_gpu(ids)
        found = host_page_ids("source", ids)
        assert found.tolist() == [3, -1, 2] and found.dtype in (np.int32, np.int64)


def test_page_ids_on_a_gpu() -> None:
    for ids in (on_gpu(4096, (5,), "<i4"), HandMade(4096, (5,), dtype=(0, 32, 1))):
        assert is_on_gpu(ids)
        seen = gpu_page_ids("source", ids)
        assert (seen.address, seen.itemsize, seen.shape) == (4096, 4, (5,))
        with pytest.raises(LayoutError, match="source page ids in GPU memory"):
            host_page_ids("source", ids)
    for wrong in (
        on_gpu(4096, (5,), "<u4"),
        on_gpu(4096, (5,), ">i4"),
        on_gpu(4096, (5,), "<i4", strides=(8,)),
        on_gpu(4096, (5, 1), "<i8"),
        HandMade(4096, (5,), dtype=(1, 64, 1)),
    ):
        with pytest.raises(LayoutError, match="destination page ids must be int32 or int64"):
            gpu_page_ids("destination", wrong)


def test_no_framework_is_imported_for_the_question(monkeypatch) -> None:
    for name in ("torch", "cupy"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    assert arrays.view(np.zeros(3, np.uint8)).num_bytes == 3
    assert "cupy" not in sys.modules and "torch" not in sys.modules
