"""The register kernel's loop body on the CPU: segments, loads in flight, what the guard tells.

That each byte is written once is shown for all layouts in test_copy_conformance.py.
"""

from __future__ import annotations

import random

import numpy as np
import pytest
from pages import POISON, guarded, native_set, oracle, random_bytes

from hicache_ext import _C
from hicache_ext.layout import LayoutSpec
from hicache_ext.plan import make_plan


def long_run_specs(num_pages: int = 3) -> tuple[LayoutSpec, LayoutSpec]:
    """Runs of 40 000 B: three segments, the last one short."""
    sizes = dict(num_pages=num_pages, page_size=5, num_layers=2, num_heads=2, head_bytes=4000)
    return LayoutSpec.make("layer_first", **sizes), LayoutSpec.make("page_unified", **sizes)


@pytest.mark.parametrize("misalign", [(0, 0), (4, 12), (8, 0), (3, 3), (3, 4), (16, 1)])
@pytest.mark.parametrize("num_blocks", [1, 2, 5, 40])
def test_segments_of_long_runs(num_blocks: int, misalign: tuple[int, int]) -> None:
    src_spec, dst_spec = long_run_specs()
    rng = random.Random(num_blocks)
    src = guarded(src_spec, random_bytes(rng, src_spec.num_bytes), misalign[0])
    dst = guarded(dst_spec, POISON, misalign[1])
    ids = [2, 0, 1]
    num_writes = np.zeros(dst_spec.num_bytes, np.uint8)
    seen = _C.emulate_copy(
        native_set(make_plan(src_spec, dst_spec), src, np.array(ids), dst, np.arange(3)),
        src.bytes,
        dst.bytes,
        num_blocks=num_blocks,
        shape="by_run",
        num_writes=num_writes,
    )
    assert (num_writes == 1).all()
    np.testing.assert_array_equal(dst.bytes, oracle(src, dst, ids, [0, 1, 2]))
    assert (seen.num_misaligned, seen.num_outside) == (0, 0)
    assert seen.num_workers == num_blocks * 16


def test_loads_are_in_flight_before_the_first_store() -> None:
    src_spec, dst_spec = long_run_specs()
    for shape, unroll in (("long_run", 8), ("short_run", 4)):
        src, dst = guarded(src_spec, 1), guarded(dst_spec, 2)
        ids = np.arange(3)
        seen = _C.emulate_copy(
            native_set(make_plan(src_spec, dst_spec), src, ids, dst, ids),
            src.bytes,
            dst.bytes,
            num_blocks=1,
            shape=shape,
            num_writes=np.zeros(dst_spec.num_bytes, np.uint8),
        )
        assert seen.max_in_flight == unroll


@pytest.mark.parametrize("num_blocks", [1, 3])
def test_the_guard_names_the_first_bad_id_and_skips_it(num_blocks: int) -> None:
    src_spec, dst_spec = long_run_specs()
    cases = [
        ([0, 1, 3], [0, 1, 2], (2, 0, 3), [0, 1]),
        ([0, 1, 2], [0, 3, 2**31 - 1], (1, 1, 3), [0]),
        ([3, 2**40, -1], [3, 0, 9], (0, 0, 3), []),
        ([2**40, 1, -1], [0, 1, 2], (0, 0, 2**32 - 1), [1]),
    ]
    for src_ids, dst_ids, (position, side, value), good in cases:
        src, dst = guarded(src_spec, 1), guarded(dst_spec, POISON)
        seen = _C.emulate_copy(
            native_set(
                make_plan(src_spec, dst_spec), src, np.array(src_ids), dst, np.array(dst_ids)
            ),
            src.bytes,
            dst.bytes,
            num_blocks=num_blocks,
            shape="by_run",
            num_writes=np.zeros(dst_spec.num_bytes, np.uint8),
        )
        word = seen.first_bad
        assert (word >> 33, word >> 32 & 1, word & 0xFFFFFFFF) == (position, side, value)
        assert seen.num_bytes == len(good) * dst_spec.page_bytes and seen.num_outside == 0
        pages = dst.bytes.reshape(3, -1)
        for page in range(3):
            assert (pages[page] == (1 if page in good else POISON)).all()


def test_the_proof_can_fail() -> None:
    """A destination twice is two writes: the count sees what a compare of bytes would not."""
    src_spec, dst_spec = long_run_specs()
    src, dst = guarded(src_spec, 1), guarded(dst_spec, POISON)
    num_writes = np.zeros(dst_spec.num_bytes, np.uint8)
    _C.emulate_copy(
        native_set(make_plan(src_spec, dst_spec), src, np.array([0, 0]), dst, np.array([1, 1])),
        src.bytes,
        dst.bytes,
        num_blocks=2,
        shape="by_run",
        num_writes=num_writes,
    )
    assert sorted(set(num_writes.reshape(3, -1)[1])) == [2]
