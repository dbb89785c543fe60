"""Pages for the tests: random layouts, guarded buffers, and a NumPy oracle that knows no plan."""

from __future__ import annotations

import random
from dataclasses import dataclass, replace

import numpy as np

from hicache_ext import _C
from hicache_ext.layout import LAYOUT_NAMES, KvMask, LayoutSpec, PagedBuffer
from hicache_ext.plan import Plan

GUARD_BYTES = 256
GUARD, POISON = 0xA5, 0xEE


def logical(array: np.ndarray, spec: LayoutSpec) -> np.ndarray:
    """[page, layer, kv, token, group, head, byte] view of a flat uint8 array."""
    heads = spec.num_heads // spec.num_groups
    shape = (spec.num_pages, spec.num_layers, spec.num_kv, spec.page_size)
    strides = (spec.stride_page, spec.stride_layer, spec.stride_kv, spec.stride_token)
    return np.lib.stride_tricks.as_strided(
        array,
        shape=(*shape, spec.num_groups, heads, spec.head_bytes),
        strides=(*strides, spec.stride_group, spec.stride_head, 1),
    )


@dataclass
class Guarded:
    """A buffer of `spec` at an odd place, between guard bytes."""

    spec: LayoutSpec
    buffer: PagedBuffer
    whole: np.ndarray
    begin: int

    @property
    def bytes(self) -> np.ndarray:
        return self.whole[self.begin : self.begin + self.spec.num_bytes]

    def check_guards(self) -> None:
        end = self.begin + self.spec.num_bytes
        assert (self.whole[: self.begin] == GUARD).all(), "written before the buffer"
        assert (self.whole[end:] == GUARD).all(), "written past the buffer"


def guarded(spec: LayoutSpec, content: np.ndarray | int, misalign: int = 0) -> Guarded:
    whole = np.full(spec.num_bytes + 2 * GUARD_BYTES + 64, GUARD, np.uint8)
    begin = GUARD_BYTES + (-whole.ctypes.data - GUARD_BYTES) % 64 + misalign
    inside = whole[begin : begin + spec.num_bytes]
    inside[:] = content
    return Guarded(spec, PagedBuffer(inside, spec), whole, begin)


def native_set(
    plan: Plan, src: Guarded, src_ids: np.ndarray, dst: Guarded, dst_ids: np.ndarray
) -> _C.CopySet:
    """One part for the native module alone, with no check of Python's."""
    parts = _C.CopySet()
    parts.add(plan.native, src.buffer.native, src_ids, dst.buffer.native, dst_ids)
    return parts


def random_bytes(rng: random.Random, num_bytes: int) -> np.ndarray:
    return np.frombuffer(rng.randbytes(num_bytes), np.uint8)


def random_spec(rng: random.Random, name: str, like: LayoutSpec | None = None) -> LayoutSpec:
    """A dense layout, or one with gaps between its pages; with `like`, of pages that fit to it."""
    num_groups = rng.choice([1, 1, 2, 4])
    if like is None:
        extents = {
            "page_size": rng.choice([1, 2, 3, 16]),
            "num_layers": rng.choice([1, 2, 5]),
            "num_kv": rng.choice([1, 2]),
            "num_heads": rng.choice([4, 8]),
            "head_bytes": rng.choice([1, 6, 16, 33, 64, 144]),
        }
    else:
        names = ("page_size", "num_layers", "num_kv", "num_heads", "head_bytes")
        extents = {key: getattr(like, key) for key in names}
    spec = LayoutSpec.make(name, num_pages=rng.randint(1, 9), num_groups=num_groups, **extents)
    if name == "page_unified" and rng.random() < 0.3:
        return replace(spec, stride_page=spec.stride_page + rng.choice([1, 16, 112]))
    return spec


def random_pair(rng: random.Random) -> tuple[LayoutSpec, LayoutSpec]:
    src = random_spec(rng, rng.choice(LAYOUT_NAMES))
    return src, random_spec(rng, rng.choice(LAYOUT_NAMES), like=src)


def random_ids(rng: random.Random, src: LayoutSpec, dst: LayoutSpec) -> tuple[list[int], list[int]]:
    """Equally many ids; distinct on the destination; some are holes; perhaps none at all."""
    count = rng.randint(0, dst.num_pages)
    dst_ids = rng.sample(range(dst.num_pages), count)
    src_ids = [rng.randrange(src.num_pages) for _ in range(count)]
    for ids in (src_ids, dst_ids):
        for i in range(count):
            if rng.random() < 0.15:
                ids[i] = rng.choice([-1, -7])
    return src_ids, dst_ids


@dataclass(frozen=True)
class Window:
    layers: tuple[int, int]
    kv: KvMask
    heads: tuple[int, int]


def random_window(rng: random.Random, src: LayoutSpec, dst: LayoutSpec) -> Window:
    """A window that cuts no head group of either side."""

    def span(extent: int, step: int = 1) -> tuple[int, int]:
        first, last = sorted(rng.sample(range(extent // step + 1), 2))
        return first * step, last * step

    fine = src.num_heads // max(src.num_groups, dst.num_groups)
    coarse = src.num_heads // min(src.num_groups, dst.num_groups)
    heads = span(src.num_heads, rng.choice([fine, coarse]))
    if heads[0] // coarse != (heads[1] - 1) // coarse:
        heads = span(src.num_heads, coarse)
    kv = rng.choice(list(KvMask)) if src.num_kv == 2 else KvMask.BOTH
    return Window(span(src.num_layers), kv, heads)


def oracle(
    src: Guarded, dst: Guarded, src_ids: list[int], dst_ids: list[int], window: Window | None = None
) -> np.ndarray:
    """What the destination's bytes must be: one NumPy assignment for each page."""
    expected = dst.bytes.copy()
    source, target = logical(src.bytes, src.spec), logical(expected, dst.spec)
    heads = np.arange(src.spec.num_heads)
    layers, kv = slice(None), slice(None)
    if window is not None:
        heads = heads[slice(*window.heads)]
        layers = slice(*window.layers)
        kv = slice(*window.kv.value) if src.spec.num_kv == 2 else slice(None)
    for src_id, dst_id in zip(src_ids, dst_ids, strict=True):
        if src_id < 0 or dst_id < 0:
            continue
        for head in heads:
            from_group, from_head = divmod(head, src.spec.num_heads // src.spec.num_groups)
            to_group, to_head = divmod(head, dst.spec.num_heads // dst.spec.num_groups)
            target[dst_id, layers, kv, :, to_group, to_head] = source[
                src_id, layers, kv, :, from_group, from_head
            ]
    return expected
