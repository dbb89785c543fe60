"""Hypothesis strategies: copies between any two affine layouts, and what the planner may refuse."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from math import prod

import numpy as np
from copy_cases import Choice
from hypothesis import strategies as st
from page_cases import Window

from hicache_ext.copy import LayoutSpec, RunOrder, Side
from hicache_ext.layout import KvMask, Planes
from hicache_ext.layout.spec import AXES

MAX_AXES = 5  # around a run
HEAD_BYTES = {1: (1, 2, 3, 7, 12, 33, 64, 132, 250), 16: (16, 48, 64, 144, 528)}
TABLE_AXES = "page,token,group,head,dim"  # as PagedBuffer.from_tables is called by the tests


@dataclass(frozen=True)
class Extents:
    """What two layouts must have in common."""

    page_size: int
    num_layers: int
    num_kv: int
    num_heads: int
    head_bytes: int


@st.composite
def layouts(
    draw: st.DrawFn, extents: Extents, order: list[str], max_gap: int, align_bytes: int
) -> LayoutSpec:
    """Axes in this order, innermost first, with gaps after their steps; perhaps in planes."""
    n = extents.num_heads
    num_groups = draw(st.sampled_from([i for i in range(1, n + 1) if n % i == 0]))
    sizes = {
        "page": draw(st.sampled_from([1, 2, 3, 4])),
        "layer": extents.num_layers,
        "kv": extents.num_kv,
        "group": num_groups,
        "token": extents.page_size,
        "head": n // num_groups,
    }
    planes = draw(st.sampled_from(Planes))
    axes, step = {}, extents.head_bytes
    for axis in order:
        if planes is Planes.TABLE and axis in ("layer", "kv"):
            axes[axis] = (sizes[axis], 0)
            continue
        axes[axis] = (sizes[axis], step)
        step = step * sizes[axis] + draw(st.integers(0, max_gap)) * align_bytes
    name = TABLE_AXES if planes is Planes.TABLE else "strided"
    return LayoutSpec.strided(axes, head_bytes=extents.head_bytes, name=name, planes=planes)


def spans(extent: int) -> st.SearchStrategy[tuple[int, int]]:
    """Half-open and not empty."""
    ends = range(1, extent + 1)
    return st.sampled_from([(first, last) for last in ends for first in range(last)])


def windows(spec: LayoutSpec) -> st.SearchStrategy[Window]:
    """Half of them whole, so that there is something to merge."""
    part = st.builds(
        Window,
        layers=spans(spec.num_layers),
        kv=st.sampled_from(KvMask) if spec.num_kv == 2 else st.just(KvMask.BOTH),
        heads=spans(spec.num_heads),
        tokens=spans(spec.page_size),
    )
    return st.just(Window.whole(spec)) | part


@st.composite
def page_ids(draw: st.DrawFn, src: LayoutSpec, dst: LayoutSpec) -> tuple[list[int], list[int]]:
    """Sources may repeat, destinations may not; on either side there may be holes."""
    order = draw(st.permutations(range(dst.num_pages)))
    num_left_out = draw(st.sampled_from([0, 0, 0, 0, 1, 2, 4]))
    src_ids, dst_ids = [], []
    for page in order[num_left_out:]:
        hole = draw(st.sampled_from([0, 0, 0, 0, 0, -1, -7, -(2**31)]))
        on_source = draw(st.booleans())
        src_ids.append(hole if hole and on_source else draw(st.integers(0, src.num_pages - 1)))
        dst_ids.append(hole if hole and not on_source else page)
    return src_ids, dst_ids


@st.composite
def choices(draw: st.DrawFn) -> Choice:
    """A part of a copy; of a third of them all addresses and sizes are multiples of 16."""
    align_bytes = draw(st.sampled_from([1, 1, 16]))
    extents = Extents(
        page_size=draw(st.integers(1, 4)),
        num_layers=draw(st.integers(1, 3)),
        num_kv=draw(st.integers(1, 2)),
        num_heads=draw(st.sampled_from([1, 2, 4, 6, 12])),
        head_bytes=draw(st.sampled_from(HEAD_BYTES[align_bytes])),
    )
    order, max_gap = draw(st.permutations(AXES)), draw(st.sampled_from([0, 2, 20]))
    src = draw(layouts(extents, order, max_gap, align_bytes))
    order = draw(st.just(order) | st.permutations(order))  # alike, and there is much to merge
    dst = draw(layouts(extents, order, max_gap, align_bytes))
    dtypes, offsets = st.sampled_from([np.int32, np.int64]), st.integers(0, 64 // align_bytes)
    return Choice(
        src,
        dst,
        draw(page_ids(src, dst)),
        draw(windows(src)),
        dtypes=(draw(dtypes), draw(dtypes)),
        misaligns=(draw(offsets) * align_bytes, draw(offsets) * align_bytes),
        ascending=draw(st.sampled_from(Side)),
        order=draw(st.sampled_from(RunOrder)),
    )


def may_be_refused(choice: Choice) -> bool:
    """Whether no plan may exist: head groups that do not nest, a range of heads that is no box of
    (coarse group, fine group, head), more axes than a plan has."""
    coarse, fine = sorted([choice.src.num_groups, choice.dst.num_groups])
    if fine % coarse:
        return True
    heads_of_coarse, heads_of_fine = (choice.src.num_heads // n for n in (coarse, fine))
    digits = {
        (head // heads_of_coarse, head % heads_of_coarse // heads_of_fine, head % heads_of_fine)
        for head in range(*choice.window.heads)
    }
    each = [{digit[i] for digit in digits} for i in range(3)]
    if digits != set(product(*each)):
        return True
    window = choice.window
    num_kv = choice.src.num_kv if window.kv is KvMask.BOTH else 1
    lengths = [last - first for first, last in (window.layers, window.tokens)]
    lengths += [num_kv, *(len(values) for values in each)]
    assert prod(lengths) * choice.src.head_bytes == window.num_bytes(choice.src)
    return sum(length > 1 for length in lengths) > MAX_AXES
