"""Pages for the tests: guarded buffers of any layout, and a NumPy oracle that knows no plan."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from gpu_memory import GpuArray, GpuView
from page_cases import Window

from hicache_ext import _C
from hicache_ext.layout import LayoutSpec, PagedBuffer, Planes
from hicache_ext.plan import Plan

GUARD_BYTES = 256
GUARD, POISON = 0xA5, 0xEE


def logical(array: np.ndarray, spec: LayoutSpec) -> np.ndarray:
    """[page, layer, kv, token, group, head, byte] view of a flat uint8 array in one buffer."""
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
    """A buffer of `spec` at an odd place of an arena, guard bytes around each of its planes."""

    spec: LayoutSpec
    buffer: PagedBuffer
    whole: np.ndarray  # the arena
    planes: list[int]  # where in the arena each plane begins; one for one buffer

    @property
    def begin(self) -> int:
        return self.planes[0]

    @property
    def end(self) -> int:
        return self.planes[-1] + self.spec.plane_bytes

    @property
    def bytes(self) -> np.ndarray:
        """From the first byte to the last; in a table the guards between the planes as well."""
        return self.whole[self.begin : self.end]

    def layer(self, array: np.ndarray, layer: int, kv: int) -> np.ndarray:
        """[page, token, group, head, byte] view of this buffer in an array like `bytes`."""
        spec = self.spec
        if spec.planes is Planes.TABLE:
            start = self.planes[layer * spec.num_kv + kv] - self.begin
        else:
            start = layer * spec.stride_layer + kv * spec.stride_kv
        heads = spec.num_heads // spec.num_groups
        return np.lib.stride_tricks.as_strided(
            array[start:],
            shape=(spec.num_pages, spec.page_size, spec.num_groups, heads, spec.head_bytes),
            strides=(spec.stride_page, spec.stride_token, spec.stride_group, spec.stride_head, 1),
        )

    def moved(self, arena: np.ndarray | GpuArray) -> PagedBuffer:
        """The same buffer in another arena of the same bytes."""
        return _buffer(self.whole, self.planes, self.spec, arena)

    def check_guards(self) -> None:
        """Of a buffer that has its arena for itself."""
        inside = np.zeros(self.whole.size, bool)
        for plane in self.planes:
            inside[plane : plane + self.spec.plane_bytes] = True
        assert (self.whole[~inside] == GUARD).all(), "written outside of the buffer"


def guarded(spec: LayoutSpec, content: np.ndarray | int, misalign: int = 0) -> Guarded:
    """A buffer with an arena of its own; `content` of its bytes, repeated where too short."""
    (only,) = guarded_set([spec], [misalign])
    for plane in only.planes:
        inside = only.whole[plane : plane + spec.plane_bytes]
        inside[:] = content if isinstance(content, int) else np.resize(content, inside.size)
    return only


def guarded_set(specs: Sequence[LayoutSpec], misaligns: Sequence[int]) -> list[Guarded]:
    """Buffers in one arena that is GUARD all over, each at a multiple of 64 + its misalign."""
    sizes = [spec.plane_bytes for spec in specs for _ in range(spec.num_planes)]
    room = sum(size + GUARD_BYTES + 64 + max(misaligns, default=0) for size in sizes)
    whole = np.full(room + GUARD_BYTES, GUARD, np.uint8)
    at, made = 0, []
    for spec, misalign in zip(specs, misaligns, strict=True):
        planes = []
        for _ in range(spec.num_planes):
            at += GUARD_BYTES
            at += -(whole.ctypes.data + at) % 64 + misalign
            planes.append(at)
            at += spec.plane_bytes
        made.append(Guarded(spec, _buffer(whole, planes, spec, whole), whole, planes))
    return made


def _buffer(
    whole: np.ndarray, planes: list[int], spec: LayoutSpec, arena: np.ndarray | GpuArray
) -> PagedBuffer:
    def place(view: np.ndarray) -> np.ndarray | GpuView:
        if isinstance(arena, GpuArray):
            return arena.view(view, whole)
        offset = view.ctypes.data - whole.ctypes.data
        return np.ndarray(view.shape, view.dtype, arena, offset, view.strides)

    if spec.planes is Planes.ONE_BUFFER:
        return PagedBuffer(place(whole[planes[0] : planes[0] + spec.num_bytes]), spec)
    shape = (spec.num_pages, spec.page_size, spec.num_groups, spec.num_heads // spec.num_groups)
    strides = (spec.stride_page, spec.stride_token, spec.stride_group, spec.stride_head, 1)
    views = [
        place(np.ndarray((*shape, spec.head_bytes), np.uint8, whole, plane, strides))
        for plane in planes
    ]
    k, v = views[:: spec.num_kv], views[1 :: spec.num_kv] if spec.num_kv == 2 else None
    buffer = PagedBuffer.from_tables(k, v, axes="page,token,group,head,dim")
    assert buffer.spec == spec
    return buffer


def native_set(
    plan: Plan, src: Guarded, src_ids: np.ndarray, dst: Guarded, dst_ids: np.ndarray
) -> _C.CopySet:
    """One part for the native module alone, with no check of Python's."""
    parts = _C.CopySet()
    parts.add(plan.native, src.buffer.native, src_ids, dst.buffer.native, dst_ids)
    return parts


def random_bytes(rng: random.Random, num_bytes: int) -> np.ndarray:
    return np.frombuffer(rng.randbytes(num_bytes), np.uint8)


def oracle(
    src: Guarded,
    dst: Guarded,
    src_ids: Sequence[int],
    dst_ids: Sequence[int],
    window: Window | None = None,
) -> np.ndarray:
    """What dst.bytes must be: one NumPy assignment for each page, layer, kv and head."""
    expected = dst.bytes.copy()
    spec, seen = src.spec, window or Window.whole(src.spec)
    pairs = [(s, d) for s, d in zip(src_ids, dst_ids, strict=True) if s >= 0 and d >= 0]
    for layer in range(*seen.layers):
        for kv in range(*(seen.kv.value if spec.num_kv == 2 else (0, 1))):
            source, target = src.layer(src.bytes, layer, kv), dst.layer(expected, layer, kv)
            for head in range(*seen.heads):
                from_group, from_head = divmod(head, spec.num_heads // spec.num_groups)
                to_group, to_head = divmod(head, dst.spec.num_heads // dst.spec.num_groups)
                for src_id, dst_id in pairs:
                    target[dst_id, slice(*seen.tokens), to_group, to_head] = source[
                        src_id, slice(*seen.tokens), from_group, from_head
                    ]
    return expected


def covered(
    src: Guarded,
    dst: Guarded,
    src_ids: Sequence[int],
    dst_ids: Sequence[int],
    window: Window | None = None,
) -> np.ndarray:
    """1 for each byte of dst.bytes that a copy must write, 0 elsewhere: the oracle on ones over
    zeros. Gaps of the source are ones as well, gaps of the destination stay zero."""
    ones = Guarded(src.spec, src.buffer, np.ones_like(src.whole), src.planes)
    zeros = Guarded(dst.spec, dst.buffer, np.zeros_like(dst.whole), dst.planes)
    return oracle(ones, zeros, src_ids, dst_ids, window)
