"""Copies of several parts: what they may share, and whose fault an error is."""

from __future__ import annotations

import numpy as np
import pytest
from pages import POISON, guarded

from hicache_ext import _C
from hicache_ext.copy import CopyPart, PlanSet, copy_set, make_plan
from hicache_ext.errors import LayoutError, PageIndexError
from hicache_ext.layout import KvMask, LayoutSpec, PagedBuffer
from hicache_ext.plan import Plan
from hicache_ext.plan_set import MAX_PARTS

SIZES = dict(num_pages=4, page_size=2, num_layers=4, num_heads=2, head_bytes=16)
SRC, DST = LayoutSpec.make("layer_first", **SIZES), LayoutSpec.make("page_unified", **SIZES)


def part(
    number: int, dst: PagedBuffer, src_ids: list[int], dst_ids: list[int], plan: Plan | None = None
) -> CopyPart:
    return CopyPart(guarded(SRC, number).buffer, src_ids, dst, dst_ids, plan)


def test_parts_of_one_buffer_by_window() -> None:
    """K and V of one page from two sources, and two ranges of layers of another."""
    dst = guarded(DST, POISON)
    k, v = (make_plan(SRC, DST, kv=mask) for mask in (KvMask.K, KvMask.V))
    low, high = (make_plan(SRC, DST, layers=span) for span in ((0, 1), (1, 4)))
    parts = PlanSet(
        [
            part(1, dst.buffer, [0], [3], k),
            part(2, dst.buffer, [1], [3], v),
            part(3, dst.buffer, [2], [0], low),
            part(4, dst.buffer, [3], [0], high),
        ]
    )
    assert copy_set(parts).result() == parts.num_bytes == 2 * DST.page_bytes
    pages = dst.bytes.reshape(4, 4, 2, -1)  # page, layer, kv
    assert (pages[3, :, 0] == 1).all() and (pages[3, :, 1] == 2).all()
    assert (pages[0, 0] == 3).all() and (pages[0, 1:] == 4).all()
    assert (pages[1:3] == POISON).all()


def test_parts_of_one_buffer_by_page() -> None:
    dst = guarded(DST, POISON)
    first = part(1, dst.buffer, [0, -1, 0], [3, 1, -2])
    copy_set(PlanSet([first, part(2, dst.buffer, [1, 1, -1], [0, 1, 3])]))
    pages = dst.bytes.reshape(4, -1)
    assert [set(page) for page in pages] == [{2}, {2}, {POISON}, {1}]
    twice = [first, part(2, dst.buffer, [1, 1], [0, 3])]
    with pytest.raises(PageIndexError, match="part=0 position=0 and part=1 position=1 value=3"):
        PlanSet(twice)
    whole, tokens = make_plan(SRC, DST), make_plan(SRC, DST, tokens=(1, 2))
    with pytest.raises(PageIndexError, match="twice: part=0 position=0 and part=1 position=0"):
        PlanSet([part(1, dst.buffer, [0], [2], whole), part(2, dst.buffer, [0], [2], tokens)])


def test_memory_that_parts_may_not_share() -> None:
    src, dst = guarded(SRC, 1), guarded(DST, POISON)
    there = CopyPart(src.buffer, [0], dst.buffer, [0])
    back = CopyPart(dst.buffer, [1], src.buffer, [1])
    with pytest.raises(LayoutError, match=r"overlap: 0x\S+ of part 0 and 0x\S+ of part 1"):
        PlanSet([there, back])
    few = LayoutSpec.make("page_unified", **{**SIZES, "num_pages": 3})
    inside = PagedBuffer(dst.bytes[DST.page_bytes :], few)
    with pytest.raises(LayoutError, match="destinations of parts 0 and 1 overlap and are not one"):
        PlanSet([there, CopyPart(guarded(SRC, 2).buffer, [0], inside, [0])])
    assert (dst.bytes == POISON).all()


def test_an_error_names_part_side_position_and_value() -> None:
    targets = [guarded(DST, POISON) for _ in range(3)]
    good = [part(1, target.buffer, [0, 1, 2], [0, 1, 2]) for target in targets]
    for number, side, position, what in (
        (1, "source", 2, {"src_page_ids": [0, 1, 4]}),
        (2, "destination", 1, {"dst_page_ids": [0, 9, 1]}),
    ):
        parts = list(good)
        parts[number] = good[number]._replace(**what)
        value = 4 if side == "source" else 9
        wanted = f"{side} page id out of range: part={number} position={position} value={value}"
        for executor in ("cpu_ref", "cpu"):
            with pytest.raises(PageIndexError, match=wanted):
                copy_set(PlanSet(parts), executor=executor)
        check_guard_word(parts, number, side, position, value)
    parts = [*good[:2], good[2]._replace(dst_page_ids=[1, 0, 1])]
    with pytest.raises(PageIndexError, match="twice: part=2 position=2 value=1"):
        copy_set(PlanSet(parts))
    with pytest.raises(LayoutError, match="source=3 destination=1 part=1"):
        PlanSet([good[0], good[1]._replace(dst_page_ids=[0])])
    assert all((target.bytes == POISON).all() for target in targets)


def check_guard_word(
    parts: list[CopyPart], number: int, side: str, position: int, value: int
) -> None:
    """What the kernel's guard says of the same set: positions are counted through all parts."""
    native = PlanSet(parts).native
    memory = np.zeros(1, np.uint8)  # every access is outside of it: only the guard counts
    seen = _C.emulate_copy(
        native, memory, memory.copy(), num_blocks=2, shape="by_run", num_writes=memory.copy()
    )
    flat = 3 * number + position
    assert seen.first_bad == flat << 33 | (side == "destination") << 32 | value
    assert seen.num_bytes == 8 * DST.page_bytes  # 9 positions, one of them bad


def test_how_many_parts() -> None:
    targets = [guarded(DST, POISON).buffer for _ in range(MAX_PARTS + 1)]
    parts = [part(1, target, [0], [1]) for target in targets]
    assert copy_set(PlanSet(parts[:MAX_PARTS])).result() == MAX_PARTS * DST.page_bytes
    with pytest.raises(LayoutError, match="more than 8 parts"):
        PlanSet(parts)
    assert copy_set(PlanSet([])).result() == 0


def test_a_set_may_be_copied_again() -> None:
    src, dst = guarded(SRC, 1), guarded(DST, POISON)
    parts = PlanSet([CopyPart(src.buffer, np.array([0]), dst.buffer, np.array([2]))])
    copy_set(parts)
    src.bytes[:] = 7
    copy_set(parts)
    assert (dst.bytes.reshape(4, -1)[2] == 7).all()
