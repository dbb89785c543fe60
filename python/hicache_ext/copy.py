"""Moving pages between buffers of any two layouts: copy_pages, gather_pages, scatter_pages."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np

from hicache_ext.checks import require_kind
from hicache_ext.copy_part import CopyPart
from hicache_ext.cuda_copy import Priority, StagingRing
from hicache_ext.errors import LayoutError
from hicache_ext.executors import EXECUTORS, CopyOptions, start
from hicache_ext.layout import KvMask, LayoutSpec, PagedBuffer
from hicache_ext.page_ids import PageIds, page_ids_of_tokens
from hicache_ext.plan import Plan, PlanAxis, RunOrder, Side, make_plan
from hicache_ext.plan_set import PlanSet, whole_pages
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
    "Priority",
    "RunOrder",
    "Side",
    "StagingRing",
    "Ticket",
    "copy_pages",
    "copy_set",
    "gather_pages",
    "make_plan",
    "page_ids_of_tokens",
    "scatter_pages",
]


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
    priority: Priority | None = None,
    staging: StagingRing | None = None,
    order: RunOrder | None = None,
) -> Ticket:
    """Copy page src_page_ids[i] of `src` to page dst_page_ids[i] of `dst`, for every i.

    Page ids: a sequence of int, or int32/int64 [n] of NumPy or torch. Both lists are equally long
    and may be empty. A negative id on either side is a hole: the position is skipped. Of token
    indices page_ids_of_tokens() makes page ids.
    plan: from make_plan(src.spec, dst.spec, ...), for a window or to save making it again.
    executor: "cpu_ref" (plain loop), "cpu" (threads, wide non-temporal stores); with a GPU "sm_reg"
    (persistent register kernel), "sm_bulk" (the same with bulk copies through shared memory, from
    sm_90 on, for runs aligned to 16 bytes), "ce_batch" (copy engines, no SM), "staged" (a kernel on
    the GPU and few large DMAs, between GPU and host); "auto" takes the fastest by
    the cost model: see docs/executors.md and PlanSet.explain().
    num_threads: of the cpu executor, by default every CPU that the process may use.
    num_sms: how many SMs a kernel may take, by default a few where the host takes part.
    stream: of a copy with a GPU: a torch or CuPy stream, an object with __cuda_stream__ or a raw
    handle; by default the current one of the framework that the GPU's buffer comes from. The copy
    comes after what the stream has, and what the stream gets later comes after the copy.
    priority: run on a stream of the library's own instead, after what `stream` has; what `stream`
    gets later waits only if told to: ticket.wait(stream).
    staging: the memory of the staged executor, by default 64 MiB that each GPU gets once.
    order: RunOrder.LAYERS has layer 0 of all pages there first; a plan has its own order.
    For sm_reg and sm_bulk ids may lie on the GPU, int32 or int64; then a bad one is found there,
    its page skipped, and the ticket's result raises.

    In a CUDA graph: sm_reg, sm_bulk and ce_batch can be captured. The ticket owns what the graph
    reads, so keep it as long as the graph. Ids on the GPU are read at each replay, ids on the host
    were read at the capture. result() tells of the last replay, for which the caller has waited.

    Buffers of pools: the copy comes after those under way that are in its way on the same pages,
    and later ones, alloc() included, come after it. The stream waits, or the CPU executor does; a
    graph does neither.

    Raises before anything is written: LayoutError (dtype of ids, unequal counts, a plan of other
    layouts, buffers that overlap, an executor that cannot do this copy), PageIndexError (an id out
    of range or a destination page twice; names side, position and value), CudaError (no CUDA, an
    executor that this GPU has not, host memory that it cannot reach, a stream of another GPU).
    """
    if order is not None:
        if plan is not None:
            raise LayoutError(f"order={order} beside a plan, which has its own: {plan.order}")
        plan = whole_pages(src, dst, order)
    parts = PlanSet([CopyPart(src, src_page_ids, dst, dst_page_ids, plan)])
    return start(executor, parts, CopyOptions(stream, num_sms, num_threads, priority, staging))


def copy_set(
    parts: PlanSet,
    *,
    executor: str = "auto",
    stream: Any = None,
    num_sms: int | None = None,
    num_threads: int | None = None,
    priority: Priority | None = None,
    staging: StagingRing | None = None,
) -> Ticket:
    """Copy all parts of a PlanSet, in one launch where the executor launches; see copy_pages."""
    return start(executor, parts, CopyOptions(stream, num_sms, num_threads, priority, staging))


def gather_pages(
    src: PagedBuffer, page_ids: PageIds, out: PagedBuffer | Any, **options: Any
) -> Ticket:
    """Copy page page_ids[i] of `src` to page i of `out`; a hole leaves its page of `out` alone.

    out: a PagedBuffer, or an array alone that holds n page_unified objects of one head group.
    options: those of copy_pages.
    """
    num_pages = _num_ids(page_ids)
    if num_pages == 0:
        return Ticket(0)
    require_kind("source", src, PagedBuffer)
    buffer = out if isinstance(out, PagedBuffer) else _packed(out, src.spec, num_pages)
    return copy_pages(src, page_ids, buffer, _first_pages(num_pages), **options)


def scatter_pages(
    src: PagedBuffer | Any, dst: PagedBuffer, page_ids: PageIds, **options: Any
) -> Ticket:
    """Copy page i of `src` to page page_ids[i] of `dst`; a hole leaves its page of `src` out.

    src: a PagedBuffer, or an array alone that holds n page_unified objects of one head group.
    options: those of copy_pages.
    """
    num_pages = _num_ids(page_ids)
    if num_pages == 0:
        return Ticket(0)
    require_kind("destination", dst, PagedBuffer)
    buffer = src if isinstance(src, PagedBuffer) else _packed(src, dst.spec, num_pages)
    return copy_pages(buffer, _first_pages(num_pages), dst, page_ids, **options)


def _num_ids(page_ids: PageIds) -> int:
    try:
        return len(page_ids)
    except TypeError:
        raise LayoutError(f"page_ids without a length: {type(page_ids).__name__}") from None


def _first_pages(num_pages: int) -> np.ndarray[Any, np.dtype[np.int64]]:
    return np.arange(num_pages, dtype=np.int64)


def _packed(array: Any, like: LayoutSpec, num_pages: int) -> PagedBuffer:
    return PagedBuffer(array, _packed_spec(like, num_pages))


@lru_cache(maxsize=64)
def _packed_spec(like: LayoutSpec, num_pages: int) -> LayoutSpec:
    return like.packed(num_pages)
