"""Bad input of copies, the whole list: each is a typed error that names argument, position and
value; nothing is written, and the next copy works. Single executors: test_cuda_copy_errors.py."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from array_objects import HandMade, Interface, on_gpu
from gpu_memory import why_no_gpu
from refused_copies import (
    DST,
    NAMED,
    ON_STREAM,
    PAGE_BYTES,
    SIZES,
    SRC,
    Bad,
    Stage,
    check_refused,
    params,
    stage_of,
)

from hicache_ext.copy import LayoutSpec, PagedBuffer, make_plan
from hicache_ext.errors import CudaError, LifetimeError
from hicache_ext.pool import HostBuffer


def tensor(array: Any) -> Callable[[Stage], PagedBuffer]:
    return lambda stage: PagedBuffer.from_tensor(array, "page,token,dim")


def table(arrays: list[Any]) -> Callable[[Stage], PagedBuffer]:
    return lambda stage: PagedBuffer.from_tables(arrays, axes="page,dim")


def whole(array: Any, spec: LayoutSpec = DST) -> Callable[[Stage], PagedBuffer]:
    return lambda stage: PagedBuffer(array, spec)


def freed(spec: LayoutSpec) -> PagedBuffer:
    """A buffer whose tensor has lost its memory since."""
    tensor = torch.ones(spec.num_bytes, dtype=torch.uint8)
    buffer = PagedBuffer(tensor, spec)
    tensor.untyped_storage().resize_(0)
    return buffer


def read_only() -> list[Any]:
    frozen = np.zeros(DST.num_bytes, np.uint8)
    frozen.flags.writeable = False
    interface = Interface("__array_interface__", frozen, **frozen.__array_interface__)
    capsule = HandMade(frozen.ctypes.data, frozen.shape, device=(1, 0), is_read_only=True)
    return [frozen, memoryview(frozen), bytes(frozen), interface, capsule]


def with_a_frozen_layer() -> PagedBuffer:
    shape = (DST.num_pages, DST.page_size, DST.num_heads, DST.head_bytes)
    k, v = ([np.zeros(shape, np.uint8) for _ in range(DST.num_layers)] for _ in "kv")
    v[-1].flags.writeable = False
    return PagedBuffer.from_tables(k, v, axes="page,token,head,dim")


def here_without_gpu(executor: str) -> Callable[[Stage], str]:
    def name(stage: Stage) -> str:
        return executor if why_no_gpu() else pytest.skip("there is a GPU")

    return name


# Six axes of which no two merge: the heads are grouped in two ways, the page is innermost.
GROUPED = dict(num_pages=4, page_size=2, num_layers=2, num_heads=8, head_bytes=8)
SIX_AXES = (
    LayoutSpec.make("layer,kv,group,token,head,page", num_groups=2, **GROUPED),
    LayoutSpec.make("head,kv,token,layer,group,page", num_groups=4, **GROUPED),
)
ONE_PAGE = LayoutSpec.make("page_unified", num_pages=1, **SIZES)
PAIRS = np.zeros((3, 4, 6), np.int32)
LATENT = torch.zeros(3, 8)
QUOTAS = (math.nan, math.inf, -1, 0, 2.0, True, "4", 2**31, -(2**70))

BAD = {  # page ids: test_copy_bad_ids.py
    "wrong dtype or device of a buffer": [
        Bad("source=<ndarray> is no PagedBuffer", src=np.zeros(SRC.num_bytes, np.uint8)),
        Bad("destination=None is no PagedBuffer", dst=None),
        Bad("dtype object holds Python objects", dst=whole(np.empty(DST.num_bytes // 8, object))),
        Bad("masked arrays are not copied", dst=whole(np.ma.zeros(DST.num_bytes, np.uint8))),
        Bad(f"has {DST.num_bytes - 1} bytes", dst=whole(np.zeros(DST.num_bytes - 1, np.uint8))),
        Bad("a tensor on device meta", dst=whole(torch.zeros(DST.num_bytes, device="meta"))),
        Bad(
            "executor cpu cannot reach a buffer on cuda:0",
            on=("cpu",),
            src=whole(on_gpu(4096, (SRC.num_bytes,)), SRC),
        ),
        Bad(
            "one copy on several GPUs: cuda:0, cuda:1",
            on=ON_STREAM,
            dst=lambda s: PagedBuffer(s.on_gpu(s.target.bytes, device=1), DST),
        ),
        Bad("the plan is for", plan=make_plan(DST, SRC)),
        Bad("plan='whole' is no Plan", plan="whole"),
    ],
    "non-affine tensor": [
        Bad("stride_token=-24", dst=tensor(PAIRS[:, ::-1])),
        Bad("axis dim: 3 steps of 8 B", dst=tensor(PAIRS[:, :, ::2])),
        Bad("layer_first buffer is not contiguous", src=whole(np.zeros((2, 2048))[:, :64], SRC)),
        Bad("sparse_coo has no strides", src=whole(torch.zeros(8, 8).to_sparse(), SRC)),
        Bad(
            r"shape \(4, 8\) of number 1, \(3, 8\) of number 0",
            dst=table([np.zeros((3, 8)), np.zeros((4, 8))]),
        ),
    ],
    "overlapping tensor": [
        Bad("stride_page=0", dst=tensor(torch.zeros(1, 4, 6).expand(3, 4, 6))),
        Bad("stride_token=0", src=tensor(np.broadcast_to(PAIRS[:, :1], (3, 4, 6)))),
        Bad(
            "stride_page=32 overlaps the 96 bytes inside of it",
            dst=tensor(torch.zeros(100).as_strided((3, 4, 6), (8, 6, 1))),
        ),
        Bad(
            "page_unified buffer is not contiguous",
            dst=whole(np.broadcast_to(np.uint8(0), DST.num_bytes)),
        ),
        Bad("tensors 0 and 2 of a table overlap: 0x", dst=table([LATENT, LATENT + 1, LATENT])),
    ],
    "read-only destination": [
        Bad("destination: the array of a .* is read-only", dst=lambda s: with_a_frozen_layer()),
        *(
            Bad("destination: the array of a page_unified buffer is read-only", dst=whole(array))
            for array in read_only()
        ),
    ],
    "source and destination overlap": [
        Bad(r"source and destination overlap: 0x\w+\+1024 of part 0 and", dst=lambda s: s.src),
        Bad(
            r"source and destination overlap: 0x\w+\+1024 of part 0 and 0x\w+\+256 of part 0",
            dst=lambda s: PagedBuffer(s.around_source(SRC.num_bytes - 1, PAGE_BYTES), ONE_PAGE),
        ),
        Bad(
            r"source and destination overlap",
            dst=lambda s: PagedBuffer(s.around_source(1 - PAGE_BYTES, PAGE_BYTES), ONE_PAGE),
        ),
    ],
    "too many residual axes": [
        Bad(
            "6 axes are left around the run of which a plan has at most 5",
            src=whole(np.zeros(SIX_AXES[0].num_bytes, np.uint8), SIX_AXES[0]),
            dst=whole(np.zeros(SIX_AXES[1].num_bytes, np.uint8), SIX_AXES[1]),
        )
    ],
    "zero-size axis": [
        Bad(r"axis token has size 0 in shape \[3, 0, 6\]", dst=tensor(PAIRS[:, :0])),
        Bad(r"axis page has size 0 in shape \[0, 4, 6\]", src=tensor(PAIRS[:0])),
        *(
            Bad(
                f"{what}=0 must be at least 1",
                dst=lambda s, what=what: LayoutSpec.make(
                    "page_unified", **{"num_pages": 6, **SIZES, what: 0}
                ),
            )
            for what in ("num_pages", *SIZES)
        ),
        *(
            Bad(
                rf"{what} window \[1, 1\) does not lie in",
                plan=lambda s, what=what: make_plan(SRC, DST, **{f"{what}s": (1, 1)}),
            )
            for what in ("layer", "head", "token")
        ),
    ],
    "stream of another device": [
        Bad(
            "the stream is one of cuda:1, the copy runs on cuda:0",
            CudaError,
            ON_STREAM,
            stream=lambda s: s.cuda.create_stream(1),
        ),
        Bad(
            r"stream=namespace\(.*\) is of cuda:1, the copy is on cuda:0",
            on=ON_STREAM,
            stream=SimpleNamespace(cuda_stream=4096, device_index=1),
        ),
        Bad("no such stream", CudaError, ON_STREAM, stream=77 * 4096),
        Bad("stream=nan is not a CUDA stream", on=ON_STREAM, stream=math.nan),
        Bad("stream=-1: -1 is no cudaStream_t", on=ON_STREAM, stream=-1),
    ],
    "buffer freed": [  # while a ticket lives: below
        Bad(
            "source: the tensor of a layer_first buffer had its memory at 0x",
            LifetimeError,
            src=lambda s: freed(SRC),
        ),
        Bad(
            "destination: the tensor of .* now it is at 0x0",
            LifetimeError,
            dst=lambda s: freed(DST),
        ),
    ],
    "host memory that is not registered": [
        Bad(
            rf"{side} buffer of part=0 at 0x\w+ is host memory that CUDA does not know: pin it",
            CudaError,
            NAMED,
            **{key: whole(np.zeros(spec.num_bytes, np.uint8), spec)},
        )
        for side, key, spec in (("source", "src", SRC), ("destination", "dst", DST))
    ],
    "NaN or negative quota": [
        Bad(re.escape(f"{name}={quota!r} must be a whole number from 1 to 4096"), **{name: quota})
        for name in ("num_sms", "num_threads")
        for quota in QUOTAS
    ],
    "unknown executor": [
        Bad(re.escape(f"executor {name!r} is none of auto, cpu_ref, cpu, sm_reg"), executor=name)
        for name in ("gpu", "sm_tma", "CPU", "", None, 3)
    ],
    "executor that is not available here": [
        Bad("no CUDA part|cudaGetDeviceCount", CudaError, ("cpu",), executor=here_without_gpu(name))
        for name in NAMED
    ],
    "other options": [
        Bad("priority='high' is no Priority", priority="high"),
        Bad("staging=64 is no StagingRing", staging=64),
        Bad("order='layers' is no RunOrder", order="layers"),
    ],
}


@pytest.mark.parametrize("bad", params(BAD))
def test_it_is_refused(bad: Bad) -> None:
    check_refused(bad)


@pytest.mark.parametrize("executor", ON_STREAM)
def test_buffer_freed_while_a_ticket_lives(executor: str) -> None:
    """It is not: close() refuses until the copy is seen done. See test_buffer_lifetime.py."""
    with stage_of(executor) as stage:
        memory = HostBuffer(DST.num_bytes, name="'l2'")
        stage.cuda.register_host(memory.address, DST.num_bytes)
        ticket = stage.copy(dst=PagedBuffer(memory, DST))
        with pytest.raises(
            LifetimeError, match=rf"'l2'.*views of .* at {memory.address:#x} are alive"
        ):
            memory.close()
        assert ticket.result() == 3 * PAGE_BYTES
        assert memory.array.sum() == 3 * PAGE_BYTES
        memory.close()
