"""Copies of pages on the CPU: streaming stores, gather and scatter, nothing at all."""

from __future__ import annotations

import random

import numpy as np
import pytest
from pages import POISON, guarded, oracle, random_bytes

from hicache_ext.copy import copy_pages, gather_pages, scatter_pages
from hicache_ext.layout import LAYOUT_NAMES, LayoutSpec

CPU_EXECUTORS = ("cpu_ref", "cpu")


@pytest.mark.parametrize("executor", CPU_EXECUTORS)
@pytest.mark.parametrize("name", LAYOUT_NAMES)
def test_gather_then_scatter_is_the_identity(name: str, executor: str) -> None:
    rng = random.Random(name)
    sizes = dict(page_size=4, num_layers=3, num_heads=2, head_bytes=24)
    spec = LayoutSpec.make(name, num_pages=6, **sizes)
    pool = guarded(spec, random_bytes(rng, spec.num_bytes))
    packed = np.full(3 * spec.page_bytes, POISON, np.uint8)
    ids = [5, 0, 3]
    assert gather_pages(pool.buffer, ids, packed, executor=executor).result() == packed.nbytes

    back = guarded(spec, POISON)
    scatter_pages(packed, back.buffer, ids, executor=executor)
    np.testing.assert_array_equal(back.bytes, oracle(pool, guarded(spec, POISON), ids, ids))


def test_a_hole_leaves_the_packed_page_alone() -> None:
    spec = LayoutSpec.make(
        "page_first", num_pages=4, page_size=2, num_layers=1, num_heads=1, head_bytes=8
    )
    pool = guarded(spec, 7)
    packed = np.full(3 * spec.page_bytes, POISON, np.uint8)
    gather_pages(pool.buffer, [1, -1, 2], packed)
    by_page = packed.reshape(3, -1)
    assert (by_page[[0, 2]] == 7).all() and (by_page[1] == POISON).all()


@pytest.mark.parametrize("empty", [[], np.empty(0, np.int32), np.empty(0, np.int64)])
def test_zero_pages_are_legal(empty: object) -> None:
    spec = LayoutSpec.make(
        "layer_first", num_pages=2, page_size=2, num_layers=1, num_heads=1, head_bytes=8
    )
    src, dst = guarded(spec, 1), guarded(spec, POISON)
    assert copy_pages(src.buffer, empty, dst.buffer, empty).result() == 0
    assert gather_pages(src.buffer, empty, np.empty(0, np.uint8)).result() == 0
    assert scatter_pages(np.empty(0, np.uint8), dst.buffer, empty).result() == 0
    assert (dst.bytes == POISON).all()
