"""Slots and bad input: errors that say argument, position and value; nothing is written."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from array_objects import on_gpu
from staging_cases import SPEC, pool_and_slots

from hicache_ext.errors import LayoutError, PageIndexError
from hicache_ext.layout import PagedBuffer
from hicache_ext.staging import Slots, gather_slots, scatter_slots


def refuse(error: type[Exception], match: str, call: Any, *args: Any, **options: Any) -> None:
    """Of fresh pool and slots, which stay as they are."""
    pool, slots = pool_and_slots()
    before = pool.array.copy(), slots.array.copy()
    with pytest.raises(error, match=match):
        call(pool, slots, *args, **options)
    np.testing.assert_array_equal(pool.array, before[0])
    np.testing.assert_array_equal(slots.array, before[1])


def gather(pool: PagedBuffer, slots: Slots, ids: Any, **options: Any) -> Any:
    return gather_slots(options.pop("other", pool), ids, slots, **options)


def scatter(pool: PagedBuffer, slots: Slots, ids: Any, **options: Any) -> Any:
    return scatter_slots(slots, options.pop("other", pool), ids, **options)


BOTH = pytest.mark.parametrize("call", [gather, scatter])


@BOTH
def test_bad_ids(call: Any) -> None:
    side = "source" if call is gather else "destination"
    refuse(PageIndexError, rf"{side}.*position=1 value=4", call, [0, 4])
    refuse(LayoutError, "5 page ids for num_slots=4", call, [0, 1, 2, 3, -1])
    refuse(LayoutError, f"{side} page ids: position=0 value=1.5", call, [1.5])
    refuse(LayoutError, f"{side} page ids must be int32", call, np.zeros(1, np.int16))
    refuse(LayoutError, f"{side} page ids in GPU memory", call, on_gpu(64, (1,), "<i4"))


def test_a_destination_page_twice() -> None:
    refuse(PageIndexError, "destination.*position=2 value=1", scatter, [1, 0, 1])


@BOTH
def test_bad_keys(call: Any) -> None:
    sums = {} if call is gather else {"checksums": [bytes(16)] * 2}
    refuse(LayoutError, "1 keys for 2 page ids", call, [0, 1], keys=[bytes(32)], **sums)
    refuse(
        LayoutError,
        r"keys: position=1 value=b'short' is not 32 bytes",
        call,
        [0, 1],
        keys=[bytes(32), b"short"],
        **sums,
    )
    refuse(LayoutError, "keys=<generator> is no Sequence", call, [0], keys=(k for k in ()), **sums)
    refuse(LayoutError, "keys: position=0 value=7", call, [0, 1], keys=[7, 8], **sums)


def test_bad_checksums() -> None:
    keys, good = [bytes(32)] * 2, bytes(16)
    for match, checksums in {
        "3 checksums for 2 page ids": [good] * 3,
        "checksums: position=1 value=None": [good, None],
        "checksums: position=0 value=b'x' is not 16 bytes": [b"x", None],
        "checksums=None: keys and checksums are given together": None,
    }.items():
        refuse(LayoutError, match, scatter, [0, 1], keys=keys, checksums=checksums)
    refuse(LayoutError, "checksums=7 is no Sequence", scatter, [0, 1], keys=keys, checksums=7)
    refuse(LayoutError, "keys=None: keys and checksums", scatter, [0], checksums=[good])


@BOTH
@pytest.mark.parametrize("num_threads", [0, -1, 1.5, True, "2"])
def test_bad_threads(call: Any, num_threads: Any) -> None:
    refuse(LayoutError, f"num_threads={num_threads!r}", call, [0], num_threads=num_threads)


@BOTH
def test_pools_that_do_not_fit(call: Any) -> None:
    refuse(LayoutError, "is no PagedBuffer", call, [0], other=np.zeros(64, np.uint8))
    with pytest.raises(LayoutError, match="slots=<PagedBuffer> is no Slots"):
        call(pool_and_slots()[0], pool_and_slots()[0], [0])
    other = replace(SPEC, head_bytes=4)
    refuse(
        LayoutError,
        "head_bytes",
        call,
        [0],
        other=PagedBuffer(np.zeros(other.num_bytes, np.uint8), other),
    )
    on_device = PagedBuffer(on_gpu(1 << 20, (SPEC.num_bytes,)), SPEC)
    refuse(
        LayoutError,
        rf"{call.__name__}_slots cannot reach a buffer on cuda:0",
        call,
        [0],
        other=on_device,
    )


def test_read_only_memory() -> None:
    frozen = np.zeros(SPEC.num_bytes, np.uint8)
    frozen.flags.writeable = False
    pool = PagedBuffer(frozen, SPEC)
    refuse(LayoutError, "destination.*read-only", scatter, [0], other=pool)
    slots = Slots(bytes(4096), SPEC)
    with pytest.raises(LayoutError, match=r"destination.*read-only"):
        gather_slots(pool, [0], slots)
    assert scatter_slots(slots, pool_and_slots()[0], [0]) == [True]


@BOTH
@pytest.mark.parametrize("shift", [0, 16, 100, 3 * 40 + 39])
def test_slots_that_overlap_the_pool(call: Any, shift: int) -> None:
    """Also where only the padding of the last slot lies in it."""
    memory = np.arange(400, dtype=np.uint8) % 251
    before = memory.copy()
    slots = Slots(memory[:160], SPEC, slot_stride_bytes=40)
    pool = PagedBuffer(memory[shift : shift + SPEC.num_bytes], SPEC)
    with pytest.raises(LayoutError, match="overlap"):
        call(pool, slots, [0])
    np.testing.assert_array_equal(memory, before)
    apart = PagedBuffer(memory[160 : 160 + SPEC.num_bytes], SPEC)
    call(apart, slots, [0])


def test_bad_slots() -> None:
    memory = np.zeros(200, np.uint8)
    with pytest.raises(LayoutError, match="slot_stride_bytes=15 is less than the 32"):
        Slots(memory, replace(SPEC, head_bytes=8), slot_stride_bytes=15)
    for stride in (0, -40, 40.0, True):
        with pytest.raises(LayoutError, match=f"slot_stride_bytes={stride}"):
            Slots(memory, SPEC, slot_stride_bytes=stride)
    with pytest.raises(LayoutError, match="memory of 200 bytes has no room for a slot of 4096"):
        Slots(memory, SPEC)
    with pytest.raises(LayoutError, match=r"without gaps.*device=cpu.*strides=\[2\]"):
        Slots(memory[::2], SPEC, slot_stride_bytes=40)
    with pytest.raises(LayoutError, match="device=cuda:0"):
        Slots(on_gpu(64, (4096,)), SPEC)
    with pytest.raises(LayoutError, match="num_groups=3"):
        Slots(memory, SPEC, num_groups=3, slot_stride_bytes=40)
    with pytest.raises(LayoutError, match="pool_spec=7 is no LayoutSpec"):
        Slots(memory, 7)
    slots = Slots(memory, SPEC, slot_stride_bytes=40)
    for view in (slots.slot_view, slots.object_view):
        for slot in (-1, 5):
            with pytest.raises(LayoutError, match=f"slot={slot} is none of num_slots=5"):
                view(slot)
