"""libnccl at run time: absent, incomplete, failing; and what a tick asks it for."""

import ctypes

import numpy as np
import pytest
from fake_nccl import SOURCE, compile_c

from hicache_ext import _C
from hicache_ext.agreement import NcclGroup, TickSchema
from hicache_ext.agreement.nccl import HEADER_DTYPE, SLOT_DTYPE
from hicache_ext.agreement.nccl_start import open_library
from hicache_ext.errors import CudaError


@pytest.fixture(scope="module")
def library(tmp_path_factory):
    return compile_c(SOURCE, tmp_path_factory.mktemp("nccl") / "libfake.so")


def test_version_and_ids(library):
    nccl = open_library(library)
    assert nccl.version == 23007
    first, second = nccl.make_id(), nccl.make_id()
    assert len(first) == len(second) == 128 and first != second
    assert first[0] == 0 and first[127:] == b"x"  # zeros do not end it


def test_absent_library(tmp_path):
    with pytest.raises(CudaError, match=r"NCCL cannot be opened: .*nowhere\.so"):
        open_library(str(tmp_path / "nowhere.so"))


def test_library_that_is_not_nccl(tmp_path):
    source = tmp_path / "other.c"
    source.write_text("int ncclGetVersion(int* version) { return *version = 1, 0; }\n")
    other = compile_c(source, tmp_path / "libother.so")
    with pytest.raises(CudaError, match=r"libother\.so has no ncclGetErrorString"):
        open_library(other)


def test_module_works_without_libnccl():
    """The default search finds one or says clearly that there is none."""
    try:
        assert open_library().version > 20400
    except CudaError as error:
        assert "libnccl.so.2" in str(error)


def test_group_needs_cuda_and_says_so(library):
    why = "no CUDA part" if not _C.with_cuda else "cuda"
    place = {"stream": 0, "device": 1 << 20, "library": library}
    with pytest.raises(CudaError, match=why):
        NcclGroup(TickSchema(["full"]), 0x3000, **place)


def test_record_layouts_are_those_of_the_header():
    assert HEADER_DTYPE.itemsize == (6 + 2 * _C.MAX_LANE_POOLS) * 8
    assert SLOT_DTYPE.itemsize == (5 + 2 * _C.MAX_LANE_POOLS) * 8
    assert np.zeros(1, SLOT_DTYPE)["hits"].shape == (1, _C.MAX_LANE_POOLS)
    assert SLOT_DTYPE.fields["hits"][1] == (5 + _C.MAX_LANE_POOLS) * ctypes.sizeof(ctypes.c_int64)
