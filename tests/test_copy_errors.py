"""Bad input of copies: a typed error with the values, and not a byte of the destination written."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pages import POISON, Guarded, guarded

from hicache_ext import _C
from hicache_ext.copy import copy_pages, gather_pages, make_plan, scatter_pages
from hicache_ext.errors import CudaError, HiCacheError, LayoutError, PageIndexError
from hicache_ext.layout import LayoutSpec, PagedBuffer

SIZES = dict(page_size=2, num_layers=2, num_heads=2, head_bytes=16)
SRC = LayoutSpec.make("layer_first", num_pages=4, **SIZES)
DST = LayoutSpec.make("page_unified", num_pages=6, **SIZES)


@pytest.fixture
def pair() -> tuple[Guarded, Guarded]:
    return guarded(SRC, 1), guarded(DST, POISON)


def refused(
    pair: tuple[Guarded, Guarded], error: type[Exception], match: str, *ids: Any, **options: Any
) -> None:
    src, dst = pair
    for executor in ("cpu_ref", "cpu"):
        with pytest.raises(error, match=match):
            copy_pages(src.buffer, ids[0], dst.buffer, ids[1], **{"executor": executor, **options})
    assert (dst.bytes == POISON).all() and (src.bytes == 1).all()
    dst.check_guards()


@pytest.mark.parametrize("dtype", [None, np.int32, np.int64])
def test_ids_out_of_range(pair: tuple[Guarded, Guarded], dtype: Any) -> None:
    def ids(*values: int) -> Any:
        return list(values) if dtype is None else np.array(values, dtype)

    source = "source page id out of range: position=2 value=4 num_pages=4"
    refused(pair, PageIndexError, source, ids(0, 1, 4), ids(0, 1, 2))
    destination = "destination page id out of range: position=1 value=6 num_pages=6"
    refused(pair, PageIndexError, destination, ids(0, 1), ids(5, 6))
    # A hole on one side does not excuse the other.
    refused(pair, PageIndexError, "source.*position=0 value=99", ids(99), ids(-1))
    top = 2**31 - 1
    refused(pair, PageIndexError, f"destination.*position=1 value={top}", ids(0, -1), ids(0, top))


def test_ids_of_64_bit_are_not_cut(pair: tuple[Guarded, Guarded]) -> None:
    refused(pair, PageIndexError, f"value={2**32}", [2**32], [0])
    refused(pair, LayoutError, "do not fit into int64", [2**63], [0])


def test_a_destination_page_twice(pair: tuple[Guarded, Guarded]) -> None:
    refused(pair, PageIndexError, "twice: position=2 value=5", [0, 1, 2], [5, 0, 5])
    src, dst = pair
    # The same source page twice is a broadcast, and holes may repeat.
    assert copy_pages(src.buffer, [0, 0, 1, 1], dst.buffer, [1, 2, -1, -1]).result() == 2 * 256


def test_unequal_counts(pair: tuple[Guarded, Guarded]) -> None:
    refused(pair, LayoutError, "source=2 destination=1", [0, 1], [0])
    refused(pair, LayoutError, "source=0 destination=1", [], [0])


def test_dtypes_of_ids(pair: tuple[Guarded, Guarded]) -> None:
    for bad in (np.array([0.0]), np.array([0], np.int16), np.array([0], np.uint64)):
        refused(pair, LayoutError, f"source page ids.*{bad.dtype.name}", bad, [0])
        refused(pair, LayoutError, f"destination page ids.*{bad.dtype.name}", [0], bad)
    big_endian = np.array([0], ">i8")  # its dtype is called int64 as well
    refused(pair, LayoutError, r"int64 \[n\], not >i8 \[1\]", big_endian, [0])
    refused(pair, LayoutError, "must be integers, not float", [0.0], [0])
    refused(pair, LayoutError, "must be integers, not bool", [True], [0])
    refused(pair, LayoutError, "must be integers, not str", "0", [0])
    refused(pair, LayoutError, r"int64 \[1, 1\]", np.zeros((1, 1), np.int64), [0])
    refused(pair, LayoutError, "torch.float32", torch.zeros(1), [0])
    refused(pair, LayoutError, "not a sequence", 3, [0])


def test_ids_of_torch_and_strided_ids(pair: tuple[Guarded, Guarded]) -> None:
    src, dst = pair
    ids = torch.tensor([0, 9, 1, 9, 2, 9], dtype=torch.int32)[::2]
    copy_pages(src.buffer, ids, dst.buffer, np.array([5, 7, 4, 7, 3, 7])[::2])
    assert (dst.bytes.reshape(6, -1)[3:] == 1).all() and (dst.bytes.reshape(6, -1)[:3] != 1).all()


def test_overlap() -> None:
    memory = np.full(SRC.num_bytes + DST.num_bytes, POISON, np.uint8)
    src = PagedBuffer(memory[: SRC.num_bytes], SRC)
    touching = PagedBuffer(memory[SRC.num_bytes :], DST)
    assert copy_pages(src, [0], touching, [0]).result() == 256
    first = SRC.num_bytes - 1
    by_one_byte = PagedBuffer(memory[first : first + DST.num_bytes], DST)
    for executor in ("cpu_ref", "cpu"):
        with pytest.raises(LayoutError, match="overlap"):
            copy_pages(src, [0], by_one_byte, [0], executor=executor)
        with pytest.raises(LayoutError, match="overlap"):
            copy_pages(src, [0], PagedBuffer(memory[: SRC.num_bytes], SRC), [1], executor=executor)
    assert (memory == POISON).all()


def test_plans_of_other_layouts(pair: tuple[Guarded, Guarded]) -> None:
    other = LayoutSpec.make("page_unified", num_pages=7, **SIZES)
    refused(pair, LayoutError, "the plan is for", [0], [0], plan=make_plan(SRC, other))
    refused(pair, LayoutError, "the plan is for", [0], [0], plan=make_plan(DST, SRC))


def test_bad_options(pair: tuple[Guarded, Guarded]) -> None:
    refused(pair, LayoutError, "executor 'gpu' is none of auto", [0], [0], executor="gpu")
    src, dst = pair
    with pytest.raises(LayoutError, match="num_threads=0"):
        copy_pages(src.buffer, [0], dst.buffer, [0], num_threads=0)
    for isa in ("avx9", "AVX2"):
        with pytest.raises(LayoutError, match=f"'{isa}' is none of"):
            _C.has_isa(isa)


def test_packed_arrays_of_the_wrong_size(pair: tuple[Guarded, Guarded]) -> None:
    src, _ = pair
    for wrong in (2 * SRC.page_bytes, 4 * SRC.page_bytes, 3 * SRC.page_bytes - 1):
        packed = np.full(wrong, POISON, np.uint8)
        with pytest.raises(LayoutError, match=f"the array has {wrong} bytes"):
            gather_pages(src.buffer, [0, 1, 2], packed)
        with pytest.raises(LayoutError, match=f"the array has {wrong} bytes"):
            scatter_pages(packed, src.buffer, [0, 1, 2])
        assert (packed == POISON).all() and (src.bytes == 1).all()
    with pytest.raises(PageIndexError, match=r"destination.*position=6"):
        gather_pages(src.buffer, [0] * 7, guarded(DST, POISON).buffer)


def test_ids_in_gpu_memory_for_a_cpu_executor(pair: tuple[Guarded, Guarded]) -> None:
    class OnGpu:
        shape = (1,)

        @property
        def __cuda_array_interface__(self) -> dict[str, Any]:
            return dict(shape=(1,), typestr="<i8", data=(4096, False), version=3)

    refused(pair, LayoutError, "GPU memory", OnGpu(), [0])


def test_sm_reg_without_a_gpu(pair: tuple[Guarded, Guarded]) -> None:
    src, dst = pair
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    with pytest.raises(CudaError, match=r"no CUDA part|cudaGetDeviceCount"):
        copy_pages(src.buffer, [0], dst.buffer, [0], executor="sm_reg")
    assert (dst.bytes == POISON).all()
    assert issubclass(CudaError, HiCacheError)


def test_the_module_needs_no_driver() -> None:
    """Neither libcuda nor libnccl nor torch is linked, and importing brings none of them in."""
    module = Path(_C.__file__)
    needed = subprocess.run(["ldd", module], capture_output=True, text=True).stdout
    if "libcudart" in needed:
        pytest.skip("a test build with cudart shared")
    assert "libcuda" not in needed and "nccl" not in needed and "torch" not in needed
    code = "import hicache_ext.copy, sys; assert 'torch' not in sys.modules"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    subprocess.run([sys.executable, "-c", code], env=environment, check=True)


def test_threads_after_a_fork(pair: tuple[Guarded, Guarded]) -> None:
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
