"""Moving pages between buffers of any two layouts: copy_pages, gather_pages, scatter_pages."""

from __future__ import annotations

from typing import Any

import numpy as np

from hicache_ext import _C, arrays
from hicache_ext.arrays import PageIds
from hicache_ext.device_model import Direction
from hicache_ext.errors import CudaError, LayoutError
from hicache_ext.layout import KvMask, LayoutSpec, PagedBuffer
from hicache_ext.plan import Plan, PlanAxis, Side, make_plan
from hicache_ext.profile import copy_ranges
from hicache_ext.streams import current_stream, stream_handle
from hicache_ext.ticket import Ticket

__all__ = [
    "EXECUTORS",
    "KvMask",
    "LayoutSpec",
    "PagedBuffer",
    "Plan",
    "PlanAxis",
    "Side",
    "Ticket",
    "copy_pages",
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

    Raises before anything is written: LayoutError (dtype of ids, unequal counts, a plan of other
    layouts, buffers that overlap, an executor that cannot reach them), PageIndexError (an id out of
    range or a destination page twice; names side, position and value), CudaError.
    """
    plan = _plan_for(src, dst, plan)
    chosen = _choose(executor, src, dst)
    if src.overlaps(dst):
        raise LayoutError(
            f"source and destination overlap: {src.address:#x}+{src.spec.num_bytes} and "
            f"{dst.address:#x}+{dst.spec.num_bytes}"
        )
    if chosen == "sm_reg":
        return _start_on_gpu(src, src_page_ids, dst, dst_page_ids, plan, stream, num_sms)
    if num_threads is not None and num_threads < 1:
        raise LayoutError(f"num_threads={num_threads} must be at least 1")
    src_ids = arrays.host_page_ids("source", src_page_ids)
    dst_ids = arrays.host_page_ids("destination", dst_page_ids)
    with copy_ranges(chosen, Direction.HOST_TO_HOST, plan, len(src_ids)) as ranges:
        num_bytes = _C.copy_on_cpu(
            plan.native,
            src.address,
            dst.address,
            src_ids,
            dst_ids,
            reference=chosen == "cpu_ref",
            num_threads=num_threads or 0,
            isa="auto",
        )
    return Ticket(num_bytes, (src, dst), ranges=ranges)


def _start_on_gpu(
    src: PagedBuffer,
    src_page_ids: PageIds,
    dst: PagedBuffer,
    dst_page_ids: PageIds,
    plan: Plan,
    stream: Any,
    num_sms: int | None,
) -> Ticket:
    if not _C.with_cuda:
        raise CudaError("executor sm_reg: this build of hicache_ext has no CUDA part")
    if num_sms is not None and num_sms < 1:
        raise LayoutError(f"num_sms={num_sms} must be at least 1")
    on_gpu = src if src.device != "cpu" else dst
    device_idx = int(on_gpu.device.partition(":")[2] or 0)
    handle = current_stream(on_gpu.array, device_idx) if stream is None else stream_handle(stream)
    src_ids, src_owner, num_src = _ids_for_gpu("source", src_page_ids)
    dst_ids, dst_owner, num_dst = _ids_for_gpu("destination", dst_page_ids)
    if num_src != num_dst:
        raise LayoutError(f"id counts differ: source={num_src} destination={num_dst}")
    direction = Direction.between(src.device, dst.device)
    with copy_ranges("sm_reg", direction, plan, num_src) as ranges:
        running = _C.copy_sm_reg(
            plan.native,
            src.address,
            dst.address,
            src_ids,
            dst_ids,
            num_positions=num_src,
            device=device_idx,
            num_sms=num_sms or 0,
            stream=handle,
        )
    return Ticket(0, (src, dst, src_owner, dst_owner), running, ranges)


def _ids_for_gpu(side: str, ids: PageIds) -> tuple[_C.IdArray, object, int]:
    """(ids for the kernel, what keeps them alive, how many)."""
    if arrays.is_on_gpu(ids):
        seen = arrays.gpu_page_ids(side, ids)
        num_ids = seen.num_bytes // seen.itemsize
        array = _C.IdArray(address=seen.address, width=seen.itemsize, on_device=True)
        return array, ids, num_ids
    on_host = arrays.host_page_ids(side, ids)
    array = _C.IdArray(address=on_host.ctypes.data, width=on_host.itemsize, on_device=False)
    return array, on_host, len(on_host)


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


def _plan_for(src: PagedBuffer, dst: PagedBuffer, plan: Plan | None) -> Plan:
    if plan is None:
        # The host side ascends: its end of a PCIe link wants whole lines one after the other.
        from_host = src.device == "cpu" and dst.device != "cpu"
        side = Side.SOURCE if from_host else Side.DESTINATION
        return make_plan(src.spec, dst.spec, ascending=side)
    if plan.src != src.spec or plan.dst != dst.spec:
        raise LayoutError(
            f"the plan is for {plan.src.name} -> {plan.dst.name} of other extents or strides than "
            f"the buffers {src.spec.name} -> {dst.spec.name}"
        )
    return plan


def _choose(executor: str, src: PagedBuffer, dst: PagedBuffer) -> str:
    if executor not in EXECUTORS:
        raise LayoutError(f"executor {executor!r} is none of {', '.join(EXECUTORS)}")
    on_cpu = src.device == "cpu" and dst.device == "cpu"
    if executor == "auto":
        return "cpu" if on_cpu else "sm_reg"
    if executor != "sm_reg" and not on_cpu:
        raise LayoutError(f"executor {executor} cannot reach {src.device} -> {dst.device}")
    return executor
