"""What a Python user has today for the pages of a Case, from torch and NumPy.

torch moves bf16 elements, as an engine's pool has them; NumPy, which has no bf16, int64 words. All
write into memory that is there already. On the packed side they take the pages in order, as a
gather or a scatter does.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch

from benchmarks.copy_cases import GROUPS, Case

Call = Callable[[], object]


class Yardstick(NamedTuple):
    """`factor`: how many times as fast the copy has to be; None: only shown."""

    name: str
    call: Call
    factor: float | None


def _elements(case: Case, side: str) -> Any:
    """One side as a torch tensor over its memory.

    layer_first  [kv, layer, page, token, group, element]
    page_first   [kv, page, token, layer, element]
    page_unified [page, group, layer, kv, token, element]
    """
    name = getattr(case, f"{side}_name")
    buffer = getattr(case, side)
    spec, groups = buffer.spec, GROUPS[case.packed_name]
    elements = torch.from_numpy(buffer.array).view(torch.bfloat16)
    pages, layers, tokens = spec.num_pages, spec.num_layers, spec.page_size
    shapes = {
        "layer_first": (2, layers, pages, tokens, groups, -1),
        "page_first": (2, pages, tokens, layers, -1),
        "page_unified": (pages, groups, layers, 2, tokens, -1),
    }
    return elements.view(shapes[name.removesuffix("8")])


def _page_loops(case: Case) -> list[Yardstick]:
    """The loop of SGLang's "direct" way: a copy_ for each page, layer, K and V, of slices taken in
    the loop. And its best form, a strided copy_ for each page, which is only shown.
    """
    src, dst = _elements(case, "src"), _elements(case, "dst")
    pool, packed = (src, dst) if case.is_gather else (dst, src)
    # The pool as [kv, layer, page, token, group, element], the packed side as [page, ...] of it.
    if case.packed_name == "page_first":
        pool = pool.flatten(4)
        packed = packed.permute(1, 0, 3, 2, 4)
    else:
        packed = packed.permute(0, 3, 2, 4, 1, 5)
    ids = case.ids.tolist()
    places = [(kv, layer) for layer in range(case.src.spec.num_layers) for kv in (0, 1)]
    pool_planes = [pool[place] for place in places]
    packed_planes = [packed[:, kv, layer] for kv, layer in places]

    def copy(in_pool: torch.Tensor, in_packed: torch.Tensor) -> None:
        if case.is_gather:
            in_packed.copy_(in_pool)
        else:
            in_pool.copy_(in_packed)

    def by_page_and_layer() -> None:
        for i, page in enumerate(ids):
            for in_pool, in_packed in zip(pool_planes, packed_planes, strict=True):
                copy(in_pool[page], in_packed[i])

    def by_page() -> None:
        for i, page in enumerate(ids):
            copy(pool[:, :, page], packed[i])

    return [
        Yardstick("a copy_ per page and layer", by_page_and_layer, 3.0),
        Yardstick("a copy_ per page", by_page, None),
    ]


def _advanced_indexing(case: Case) -> Yardstick:
    """Tokens of layer_first pages to page_first and back: the index and a transposition."""
    src, dst = _elements(case, "src"), _elements(case, "dst")
    ids = torch.from_numpy(case.ids)
    name = "advanced indexing"
    if case.is_gather:
        pool = src.flatten(4)
        return Yardstick(name, lambda: dst.copy_(pool[:, :, ids].permute(0, 2, 3, 1, 4)), 3.0)
    pool, turned = dst.flatten(4), src.permute(0, 3, 1, 2, 4)
    return Yardstick(name, lambda: pool.__setitem__((slice(None), slice(None), ids), turned), 3.0)


def _whole_pages(case: Case) -> list[Yardstick]:
    """Pages between layer_first pools: the same bytes with no change of layout."""
    spec, ids = case.src.spec, torch.from_numpy(case.ids)
    shape = (2, spec.num_layers, spec.num_pages, -1)
    arrays = [side.array.view(np.int64).reshape(shape) for side in (case.src, case.dst)]
    src, dst = (torch.from_numpy(array).view(torch.bfloat16) for array in arrays)
    if case.is_gather:
        return [
            Yardstick("index_select", lambda: torch.index_select(src, 2, ids, out=dst), 1.3),
            Yardstick(
                "numpy.take",
                lambda: np.take(arrays[0], case.ids, axis=2, out=arrays[1], mode="clip"),
                1.3,
            ),
        ]

    def assign() -> None:
        for from_plane, to_plane in zip(
            *(a.reshape(-1, *a.shape[2:]) for a in arrays), strict=True
        ):
            to_plane[case.ids] = from_plane

    return [
        Yardstick("index_copy_", lambda: dst.index_copy_(2, ids, src), 2.0),
        Yardstick("NumPy pool[ids] = pages", assign, 1.3),
    ]


def yardsticks(case: Case) -> list[Yardstick]:
    """Those of the issue's targets that fit this pair of layouts."""
    if case.packed_name == "page_first":
        return [_advanced_indexing(case), *_page_loops(case)]
    if case.packed_name == "page_unified":
        return [*_whole_pages(case), *_page_loops(case)]
    return _page_loops(case)
