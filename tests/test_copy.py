"""Copies of pages on the CPU: gather and scatter, broadcasts, neighbours, forks, nothing at all."""

from __future__ import annotations

import os
import random
import subprocess
import sys

import numpy as np
import pytest
import torch
from pages import POISON, guarded, oracle, random_bytes

from hicache_ext.copy import copy_pages, gather_pages, scatter_pages
from hicache_ext.errors import LayoutError, PageIndexError
from hicache_ext.layout import LAYOUT_NAMES, LayoutSpec, PagedBuffer

SIZES = dict(page_size=2, num_layers=2, num_heads=2, head_bytes=16)
SRC = LayoutSpec.make("layer_first", num_pages=4, **SIZES)
DST = LayoutSpec.make("page_unified", num_pages=6, **SIZES)
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


def test_one_page_to_many_and_holes_that_repeat() -> None:
    src, dst = guarded(SRC, 1), guarded(DST, POISON)
    assert copy_pages(src.buffer, [0, 0, 1, 1], dst.buffer, [1, 2, -1, -1]).result() == 2 * 256
    written = (dst.bytes.reshape(6, -1) == 1).all(axis=1)
    assert written.tolist() == [False, True, True, False, False, False]


def test_ids_of_torch_and_strided_ids() -> None:
    src, dst = guarded(SRC, 1), guarded(DST, POISON)
    ids = torch.tensor([0, 9, 1, 9, 2, 9], dtype=torch.int32)[::2]
    copy_pages(src.buffer, ids, dst.buffer, np.array([5, 7, 4, 7, 3, 7])[::2])
    assert (dst.bytes.reshape(6, -1)[3:] == 1).all() and (dst.bytes.reshape(6, -1)[:3] != 1).all()


def test_buffers_that_touch_do_not_overlap() -> None:
    memory = np.full(SRC.num_bytes + DST.num_bytes, POISON, np.uint8)
    src = PagedBuffer(memory[: SRC.num_bytes], SRC)
    touching = PagedBuffer(memory[SRC.num_bytes :], DST)
    assert copy_pages(src, [0], touching, [0]).result() == 256


def test_packed_arrays_of_the_wrong_size() -> None:
    src = guarded(SRC, 1)
    for wrong in (2 * SRC.page_bytes, 4 * SRC.page_bytes, 3 * SRC.page_bytes - 1):
        packed = np.full(wrong, POISON, np.uint8)
        with pytest.raises(LayoutError, match=f"the array has {wrong} bytes"):
            gather_pages(src.buffer, [0, 1, 2], packed)
        with pytest.raises(LayoutError, match=f"the array has {wrong} bytes"):
            scatter_pages(packed, src.buffer, [0, 1, 2])
        assert (packed == POISON).all() and (src.bytes == 1).all()
    with pytest.raises(PageIndexError, match=r"destination.*position=6"):
        gather_pages(src.buffer, [0] * 7, guarded(DST, POISON).buffer)


@pytest.mark.parametrize("wrong", [3, None])
def test_what_gather_and_scatter_cannot_count_or_reach(wrong: object) -> None:
    src, packed = guarded(SRC, 1), np.full(SRC.page_bytes, POISON, np.uint8)
    with pytest.raises(LayoutError, match=f"page_ids without a length: {type(wrong).__name__}"):
        gather_pages(src.buffer, wrong, packed)
    with pytest.raises(LayoutError, match=f"page_ids without a length: {type(wrong).__name__}"):
        scatter_pages(packed, src.buffer, wrong)
    with pytest.raises(LayoutError, match="source=<ndarray> is no PagedBuffer"):
        gather_pages(src.bytes, [0], packed)
    with pytest.raises(LayoutError, match="destination=<ndarray> is no PagedBuffer"):
        scatter_pages(packed, src.bytes, [0])
    assert (packed == POISON).all() and (src.bytes == 1).all()


def test_threads_after_a_fork() -> None:
    """The pool's threads do not survive a fork: the child makes its own instead of waiting."""
    sizes = dict(SIZES, num_layers=64, head_bytes=4096)
    big = LayoutSpec.make("layer_first", num_pages=8, **sizes)
    src, dst = guarded(big, 3), guarded(big, POISON)
    copy_pages(src.buffer, range(4), dst.buffer, range(4), num_threads=3)
    child = os.fork()
    if child == 0:
        copied = copy_pages(src.buffer, range(8), dst.buffer, range(8), num_threads=3).result()
        os._exit(0 if copied == big.num_bytes and (dst.bytes == 3).all() else 1)
    assert os.waitpid(child, 0)[1] == 0


ALONE = """
import os, resource
import numpy as np
from hicache_ext.copy import LayoutSpec, PagedBuffer, copy_pages
resource.setrlimit(resource.RLIMIT_NPROC, (0, 0))
if os.getuid() == 0:
    os.setuid(65534)  # whom the limit binds
spec = LayoutSpec.opaque(num_pages=64, row_bytes=256 << 10)
src, dst = (PagedBuffer(np.full(spec.num_bytes, i, np.uint8), spec) for i in (1, 0))
before = os.listdir("/proc/self/task")
copied = copy_pages(src, range(64), dst, range(64), num_threads=4).result()
assert copied == spec.num_bytes and dst.array.all() and os.listdir("/proc/self/task") == before
"""


def test_without_a_thread_to_be_had_the_caller_copies_alone() -> None:
    done = subprocess.run([sys.executable, "-c", ALONE], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
