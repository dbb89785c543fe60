"""Moving pages between buffers of any two layouts: copy_pages, gather_pages, scatter_pages."""

from __future__ import annotations

from typing import Any

import numpy as np

from hicache_ext import _C
from hicache_ext.errors import CudaError, LayoutError
from hicache_ext.layout import KvMask, LayoutSpec, PagedBuffer
from hicache_ext.page_ids import PageIds
from hicache_ext.plan import Plan, PlanAxis, Side, make_plan
from hicache_ext.plan_set import CopyPart, PlanSet
from hicache_ext.profile import copy_ranges
from hicache_ext.streams import current_stream, stream_handle
from hicache_ext.ticket import Ticket

__all__ = [
    "EXECUTORS",
    "CopyPart",
    "KvMask",
    "LayoutSpec",
    "PagedBuffer",
    "Plan",
    "PlanAxis",
    "PlanSet",
    "Side",
    "Ticket",
    "copy_pages",
    "copy_set",
    "gather_pages",
    "make_plan",
    "scatter_pages",
]

EXECUTORS = ("auto", "cpu_ref", "cpu", "sm_reg")


def copy_pages(
    src: PagedBuffer,
    src_page_ids: PageIds,
    dst: PagedBuffer,
    dst_page_ids: PageIds,
    *,
    plan: Plan | None = None,
    executor: str = "auto",
    stream: Any = None,
    num_sms: int | None = None,
    num_threads: int | None = None,
) -> Ticket:
    """Copy page src_page_ids[i] of `src` to page dst_page_ids[i] of `dst`, for every i.

    Page ids: a sequence of int, or int32/int64 [n] of NumPy or torch. Both lists are equally long
    and may be empty. A negative id on either side is a hole: the position is skipped.
    plan: from make_plan(src.spec, dst.spec, ...), for a window or to save making it again.
    executor: "cpu_ref" (plain loop), "cpu" (threads, wide non-temporal stores), "sm_reg"
    (persistent CUDA kernel), "auto" (cpu where both buffers are on the CPU, else sm_reg).
    num_threads: of the cpu executor, by default every CPU that the process may use.
    num_sms: how many SMs sm_reg may take, by default a few where the host takes part.
    stream: of sm_reg: a torch or CuPy stream, an object with __cuda_stream__ or a raw handle; by
    default the current one of the framework that the GPU's buffer comes from. Ids may lie on the
    GPU, int32 or int64; then a bad one is found there, its page skipped, and the ticket's result
    raises.
    Buffers of pools: the copy comes after those under way that are in its way on the same pages,
    and later ones, alloc() included, come after it. The stream waits, or the CPU executor does.

    Raises before anything is written: LayoutError (dtype of ids, unequal counts, a plan of other
    layouts, buffers that overlap, an executor that cannot reach them), PageIndexError (an id out of
    range or a destination page twice; names side, position and value), CudaError.
    """
    parts = PlanSet([CopyPart(src, src_page_ids, dst, dst_page_ids, plan)])
    return copy_set(
        parts, executor=executor, stream=stream, num_sms=num_sms, num_threads=num_threads
    )


def copy_set(
    parts: PlanSet,
    *,
    executor: str = "auto",
    stream: Any = None,
    num_sms: int | None = None,
    num_threads: int | None = None,
) -> Ticket:
    """Copy all parts of a PlanSet, in one launch where the executor launches; see copy_pages."""
    chosen = _choose(executor, parts)
    if num_threads is not None and num_threads < 1:
        raise LayoutError(f"num_threads={num_threads} must be at least 1")
    if num_sms is not None and num_sms < 1:
        raise LayoutError(f"num_sms={num_sms} must be at least 1")
    if chosen == "sm_reg":
        return _start_on_gpu(parts, stream, num_sms)
    parts.wait_for_copies()
    with copy_ranges(chosen, parts.direction, parts) as ranges:
        num_bytes = _C.copy_on_cpu(
            parts.native,
            reference=chosen == "cpu_ref",
            num_threads=num_threads or 0,
            isa="auto",
        )
    return Ticket(num_bytes, (parts,), ranges=ranges)


def _choose(executor: str, parts: PlanSet) -> str:
    if executor not in EXECUTORS:
        raise LayoutError(f"executor {executor!r} is none of {', '.join(EXECUTORS)}")
    if executor == "auto":
        return "cpu" if parts.gpu is None else "sm_reg"
    if executor != "sm_reg" and parts.gpu is not None:
        raise LayoutError(f"executor {executor} cannot reach a buffer on {parts.gpu.device}")
    return executor


def _start_on_gpu(parts: PlanSet, stream: Any, num_sms: int | None) -> Ticket:
    if not _C.with_cuda:
        raise CudaError("executor sm_reg: this build of hicache_ext has no CUDA part")
    device_idx = 0 if parts.gpu is None else int(parts.gpu.device.partition(":")[2])
    if stream is not None:
        handle = stream_handle(stream, device_idx)
    else:
        handle = 0 if parts.gpu is None else current_stream(parts.gpu.array, device_idx)
    parts.wait_for_copies(handle)
    with copy_ranges("sm_reg", parts.direction, parts) as ranges:
        running = _C.copy_sm_reg(
            parts.native, device=device_idx, num_sms=num_sms or 0, stream=handle
        )
    return parts.record(Ticket(0, (parts,), running, ranges))


def gather_pages(
    src: PagedBuffer, page_ids: PageIds, out: PagedBuffer | Any, **options: Any
) -> Ticket:
    """Copy page page_ids[i] of `src` to page i of `out`; a hole leaves its page of `out` alone.

    out: a PagedBuffer, or an array alone that holds n page_unified objects of one head group.
    options: those of copy_pages.
    """
    num_pages = len(page_ids)
    if num_pages == 0:
        return Ticket(0)
    buffer = out if isinstance(out, PagedBuffer) else _packed(out, src.spec, num_pages)
    return copy_pages(src, page_ids, buffer, _first_pages(num_pages), **options)


def scatter_pages(
    src: PagedBuffer | Any, dst: PagedBuffer, page_ids: PageIds, **options: Any
) -> Ticket:
    """Copy page i of `src` to page page_ids[i] of `dst`; a hole leaves its page of `src` out.

    src: a PagedBuffer, or an array alone that holds n page_unified objects of one head group.
    options: those of copy_pages.
    """
    num_pages = len(page_ids)
    if num_pages == 0:
        return Ticket(0)
    buffer = src if isinstance(src, PagedBuffer) else _packed(src, dst.spec, num_pages)
    return copy_pages(buffer, _first_pages(num_pages), dst, page_ids, **options)


def _first_pages(num_pages: int) -> np.ndarray[Any, np.dtype[np.int64]]:
    return np.arange(num_pages, dtype=np.int64)


def _packed(array: Any, like: LayoutSpec, num_pages: int) -> PagedBuffer:
    spec = LayoutSpec.make(
        "page_unified",
        num_pages=num_pages,
        page_size=like.page_size,
        num_layers=like.num_layers,
        num_kv=like.num_kv,
        num_heads=like.num_heads,
        head_bytes=like.head_bytes,
    )
    return PagedBuffer(array, spec)
