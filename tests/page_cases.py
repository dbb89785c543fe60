"""Random layouts, windows and page ids for the tests of copies."""

from __future__ import annotations

import random
from dataclasses import dataclass, replace
from math import prod

from hicache_ext.layout import LAYOUT_NAMES, KvMask, LayoutSpec, Planes

# Every named layout, and what engines have besides: K and V fused in each head, heads outside of
# the tokens, all layers of a token together, gaps anywhere in any order, a tensor for each layer.
KINDS = (
    *LAYOUT_NAMES,
    "layer,page,token,group,head,kv",
    "layer,page,kv,group,head,token",
    "page,token,group,head,layer,kv",
    "gaps",
    "table",
)


def random_spec(
    rng: random.Random, kind: str, like: LayoutSpec | None = None, align_bytes: int = 1
) -> LayoutSpec:
    """A layout of a kind whose strides are multiples of align_bytes, 1 or 16; with `like`, of pages
    that fit to it."""
    if like is None:
        extents = {
            "page_size": rng.choice([1, 2, 3, 16]),
            "num_layers": rng.choice([1, 2, 5]),
            "num_kv": rng.choice([1, 2]),
            "num_heads": rng.choice([1, 4, 8]),
            "head_bytes": _multiple(rng, align_bytes, [1, 6, 16, 33, 64, 132, 144, 576]),
        }
    else:
        names = ("page_size", "num_layers", "num_kv", "num_heads", "head_bytes")
        extents = {key: getattr(like, key) for key in names}
    num_pages = rng.randint(1, 9)
    if kind in ("gaps", "table"):
        return _random_strides(rng, kind, num_pages, extents, align_bytes)
    groups = rng.choice([1, 1, 2, 4]) if extents["num_heads"] > 1 else 1
    spec = LayoutSpec.make(kind, num_pages=num_pages, num_groups=groups, **extents)
    if kind == "page_unified" and rng.random() < 0.3:
        gap = _multiple(rng, align_bytes, [1, 16, 112])
        return replace(spec, stride_page=spec.stride_page + gap)
    return spec


def _multiple(rng: random.Random, align_bytes: int, values: list[int]) -> int:
    return rng.choice([value for value in values if value % align_bytes == 0])


def _random_strides(
    rng: random.Random, kind: str, num_pages: int, extents: dict[str, int], align_bytes: int
) -> LayoutSpec:
    """Axes in any order, some with a gap after each of their steps."""
    sizes = {
        "page": num_pages,
        "layer": extents["num_layers"],
        "kv": extents["num_kv"],
        "token": extents["page_size"],
        "head": extents["num_heads"],
    }
    axes, step = {}, extents["head_bytes"]
    for axis in rng.sample(sorted(sizes), len(sizes)):
        if kind == "gaps":
            step += _multiple(rng, align_bytes, [0, 0, 1, 16])
        axes[axis] = (sizes[axis], step)
        if not (kind == "table" and axis in ("layer", "kv")):
            step *= sizes[axis]
    if kind == "gaps":
        return LayoutSpec.strided(axes, head_bytes=extents["head_bytes"])
    name = "page,token,group,head,dim"  # as PagedBuffer.from_tables calls it
    return LayoutSpec.strided(
        axes, head_bytes=extents["head_bytes"], name=name, planes=Planes.TABLE
    )


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
    tokens: tuple[int, int]

    @classmethod
    def whole(cls, spec: LayoutSpec) -> Window:
        return cls((0, spec.num_layers), KvMask.BOTH, (0, spec.num_heads), (0, spec.page_size))

    def num_bytes(self, spec: LayoutSpec) -> int:
        """Of a page."""
        num_kv = spec.num_kv if self.kv is KvMask.BOTH else 1
        spans = (self.layers, self.heads, self.tokens)
        return num_kv * prod(last - first for first, last in spans) * spec.head_bytes


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
    return Window(span(src.num_layers), kv, heads, span(src.page_size))
