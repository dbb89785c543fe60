"""The CPU copy with every instruction set: streamed stores, strips of runs, prefetch."""

from __future__ import annotations

import random
from dataclasses import replace

import numpy as np
import pytest
from pages import POISON, Guarded, guarded, native_set, oracle, random_bytes

from hicache_ext import _C
from hicache_ext.errors import LayoutError
from hicache_ext.layout import LayoutSpec
from hicache_ext.plan import Plan, Side, make_plan


@pytest.fixture(params=["portable", "avx2", "avx512"])
def isa(request: pytest.FixtureRequest) -> str:
    if not _C.has_isa(request.param):
        pytest.skip(f"this processor has no {request.param}")
    return str(request.param)


def copied(
    plan: Plan, src: Guarded, src_ids: list[int], dst: Guarded, dst_ids: list[int], isa: str
) -> None:
    """An isa that is named streams copies of any size."""
    parts = native_set(plan, src, np.array(src_ids, np.int64), dst, np.array(dst_ids, np.int64))
    num_bytes = _C.copy_on_cpu(parts, reference=False, num_threads=2, isa=isa)
    pairs = zip(src_ids, dst_ids, strict=True)
    assert num_bytes == plan.page_bytes * sum(s >= 0 and d >= 0 for s, d in pairs)
    dst.check_guards()


@pytest.mark.parametrize("side", list(Side))
@pytest.mark.parametrize("misalign", [0, 1, 32, 63])
@pytest.mark.parametrize("head_bytes", [1, 63, 64, 65, 192, 255, 256, 257, 320, 2112])
def test_runs_of_every_shape(head_bytes: int, misalign: int, side: Side, isa: str) -> None:
    """Strips of 1 to 9 runs, whole lines and ragged ones, at every kind of address."""
    rng = random.Random(head_bytes)
    sizes = dict(num_pages=2, page_size=9, num_layers=2, num_heads=2, head_bytes=head_bytes)
    src_spec = LayoutSpec.make("page_first", **sizes)
    dst_spec = LayoutSpec.make("page_unified", num_groups=2, **sizes)
    for pair in ((src_spec, dst_spec), (dst_spec, src_spec)):
        src = guarded(pair[0], random_bytes(rng, pair[0].num_bytes), 7)
        dst = guarded(pair[1], POISON, misalign)
        copied(make_plan(*pair, ascending=side), src, [1, 0], dst, [0, 1], isa)
        np.testing.assert_array_equal(dst.bytes, oracle(src, dst, [1, 0], [0, 1]))


def test_strips_end_with_their_task(isa: str) -> None:
    """Tasks of 1 MiB begin and end within strips; one long run is cut into several tasks."""
    rng = random.Random(3)
    sizes = dict(num_pages=3, page_size=100, num_layers=3, num_heads=1, head_bytes=4100)
    src_spec = LayoutSpec.make("layer_first", **sizes)
    for dst_spec in (LayoutSpec.make("page_first", **sizes), replace(src_spec, name="same")):
        src = guarded(src_spec, random_bytes(rng, src_spec.num_bytes), 3)
        dst = guarded(dst_spec, POISON, 9)
        copied(make_plan(src_spec, dst_spec), src, [2, -1, 0], dst, [0, 2, 1], isa)
        np.testing.assert_array_equal(dst.bytes, oracle(src, dst, [2, -1, 0], [0, 2, 1]))


def test_the_widest_set_is_chosen() -> None:
    """A copy that no cache holds, with what this machine has."""
    rng = random.Random(1)
    num_pages = (20 << 20) // (32 * 250)
    sizes = dict(num_pages=num_pages, page_size=4, num_layers=2, num_heads=2, head_bytes=250)
    src_spec = LayoutSpec.make("layer_first", **sizes)
    dst_spec = LayoutSpec.make("page_unified", **sizes)
    src = guarded(src_spec, random_bytes(rng, src_spec.num_bytes), 5)
    dst = guarded(dst_spec, POISON, 27)
    ids = rng.sample(range(num_pages), num_pages)
    copied(make_plan(src_spec, dst_spec), src, ids, dst, list(range(num_pages)), "auto")
    by_page = src.bytes.reshape(2, 2, num_pages, 4, 2, 250)[:, :, ids].transpose(2, 1, 0, 3, 4, 5)
    np.testing.assert_array_equal(dst.bytes.reshape(num_pages, 2, 2, 4, 2, 250), by_page)


@pytest.mark.parametrize("name", ["avx9", "AVX2", ""])
def test_an_isa_that_there_is_not(name: str) -> None:
    with pytest.raises(LayoutError, match=f"'{name}' is none of"):
        _C.has_isa(name)


@pytest.mark.parametrize("width", [np.int32, np.int64])
@pytest.mark.parametrize("names", [("layer_first", "page_first"), ("page_first", "layer_first")])
def test_large_interleaved_pages_are_taken_in_the_order_of_their_ids(
    names: tuple[str, str], width: type[np.generic], isa: str
) -> None:
    """Each position keeps its pair of pages, holes are none of them, and the ids stay as given."""
    rng = random.Random(5)
    sizes = dict(num_pages=9, page_size=4, num_layers=4, num_heads=1, head_bytes=1024)
    src_spec, dst_spec = (LayoutSpec.make(name, **sizes) for name in names)
    assert src_spec.page_bytes == 32 << 10  # from here on positions are put in order
    src = guarded(src_spec, random_bytes(rng, src_spec.num_bytes), 0)
    dst = guarded(dst_spec, POISON, 0)
    src_ids, dst_ids = [7, 2, -1, 8, 2, 0, 5], [3, 8, 1, 0, 6, -1, 4]
    given = np.array(src_ids, width), np.array(dst_ids, width)
    parts = native_set(make_plan(src_spec, dst_spec), src, given[0], dst, given[1])
    assert _C.copy_on_cpu(parts, reference=False, num_threads=2, isa=isa) == 5 * (32 << 10)
    dst.check_guards()
    np.testing.assert_array_equal(dst.bytes, oracle(src, dst, src_ids, dst_ids))
    assert [list(ids) for ids in given] == [src_ids, dst_ids]
