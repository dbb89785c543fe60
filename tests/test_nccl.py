"""libnccl at run time: absent, incomplete, failing; and what a tick really asks it for."""

import ctypes
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from hicache_ext import _C
from hicache_ext.agreement import NcclGroup, TickSchema
from hicache_ext.agreement.nccl import HEADER_DTYPE, SLOT_DTYPE, open_library
from hicache_ext.errors import AgreementError, CudaError

SOURCE = Path(__file__).parent / "fake_nccl.c"


class Call(ctypes.Structure):
    """fake_nccl.c, struct Call."""

    _fields_ = [
        ("send", ctypes.c_void_p),
        ("recv", ctypes.c_void_p),
        ("count", ctypes.c_size_t),
        ("datatype", ctypes.c_int),
        ("op", ctypes.c_int),
        ("comm", ctypes.c_void_p),
        ("stream", ctypes.c_void_p),
        ("num_calls", ctypes.c_int),
    ]


def compile_c(source, out):
    if shutil.which("cc") is None:
        pytest.skip("no C compiler")
    subprocess.run(["cc", "-shared", "-fPIC", "-o", str(out), str(source)], check=True)
    return str(out)


@pytest.fixture(scope="module")
def library(tmp_path_factory):
    return compile_c(SOURCE, tmp_path_factory.mktemp("nccl") / "libfake.so")


def test_all_reduce_receives_int64_min_and_the_callers_comm_and_stream(library):
    nccl = open_library(library)
    assert nccl.version == 23007
    nccl.all_reduce_min(send=0x1000, recv=0x2000, count=50, comm=0x3000, stream=0x4000)
    call = Call.in_dll(ctypes.CDLL(library), "last_call")
    nccl_int64, nccl_min = 4, 3  # ncclDataType_t, ncclRedOp_t of nccl.h
    assert (call.send, call.recv, call.count) == (0x1000, 0x2000, 50)
    assert (call.datatype, call.op) == (nccl_int64, nccl_min)
    assert (call.comm, call.stream, call.num_calls) == (0x3000, 0x4000, 1)


def test_failing_call_is_an_error_with_the_text_of_nccl(library):
    code = ctypes.c_int.in_dll(ctypes.CDLL(library), "all_reduce_code")
    code.value = 6
    with pytest.raises(CudaError, match=r"ncclAllReduce failed with 6: remote error"):
        open_library(library).all_reduce_min(1, 2, 3, 4, 5)
    code.value = 7  # ncclInProgress, of a non-blocking communicator
    open_library(library).all_reduce_min(1, 2, 3, 4, 5)
    code.value = 0


def test_no_communicator(library):
    with pytest.raises(AgreementError, match="comm=0"):
        open_library(library).all_reduce_min(1, 2, 3, 0, 5)


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
    with pytest.raises(CudaError, match="built without CUDA" if not _C.with_cuda else "cuda"):
        NcclGroup(TickSchema(["full"]), 0x3000, stream=0, device=1 << 20, library=library)


def test_record_layouts_are_those_of_the_header():
    assert HEADER_DTYPE.itemsize == (6 + 2 * _C.MAX_LANE_POOLS) * 8
    assert SLOT_DTYPE.itemsize == (5 + 2 * _C.MAX_LANE_POOLS) * 8
    assert np.zeros(1, SLOT_DTYPE)["hits"].shape == (1, _C.MAX_LANE_POOLS)
    assert SLOT_DTYPE.fields["hits"][1] == (5 + _C.MAX_LANE_POOLS) * 8
