"""What one plan of a copy moves: buffers and page ids."""

from __future__ import annotations

from typing import NamedTuple

from hicache_ext.layout import PagedBuffer
from hicache_ext.page_ids import PageIds
from hicache_ext.plan import Plan


class CopyPart(NamedTuple):
    """Page src_page_ids[i] of `src` becomes page dst_page_ids[i] of `dst`, for every i.

    Page ids: a sequence of int, or int32/int64 [n] of NumPy, torch or CuPy, in host or GPU memory;
    both lists are equally long and may be empty. A negative id on either side is a hole: its
    position is skipped. plan: from make_plan(src.spec, dst.spec, ...); by default of whole pages.
    """

    src: PagedBuffer
    src_page_ids: PageIds
    dst: PagedBuffer
    dst_page_ids: PageIds
    plan: Plan | None = None
