"""Who moves the pages of a PlanSet: the executors by name, and what they can be told."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from hicache_ext import _C
from hicache_ext.auto import Asked, choose_executor
from hicache_ext.checks import MAX_WORKERS, require_kind, require_whole
from hicache_ext.cuda_copy import CUDA_EXECUTORS, Priority, StagingRing, start_on_stream, stream_of
from hicache_ext.errors import LayoutError
from hicache_ext.plan_set import SLOT_BYTES, PlanSet
from hicache_ext.profile import copy_ranges
from hicache_ext.ticket import Ticket

_LEGACY_STREAMS = (0, 1)  # nullptr and cudaStreamLegacy
CPU_EXECUTORS = ("cpu_ref", "cpu")
EXECUTORS = ("auto", *CPU_EXECUTORS, *CUDA_EXECUTORS)


@dataclass(frozen=True)
class CopyOptions:
    """What a copy can be told besides its parts; see copy_pages."""

    stream: Any = None
    num_sms: int | None = None
    num_threads: int | None = None
    priority: Priority | None = None
    staging: StagingRing | None = None

    def __post_init__(self) -> None:
        for name, quota in (("num_sms", self.num_sms), ("num_threads", self.num_threads)):
            if quota is not None:
                require_whole(name, quota, most=MAX_WORKERS)
        for name, kind in (("priority", Priority), ("staging", StagingRing)):
            if (value := getattr(self, name)) is not None:
                require_kind(name, value, kind)


def start(executor: str, parts: PlanSet, options: CopyOptions) -> Ticket:
    """Starts the copy on the executor of that name; "auto" lets choose() name it."""
    require_kind("parts", parts, PlanSet)
    if executor not in EXECUTORS:
        raise LayoutError(f"executor {executor!r} is none of {', '.join(EXECUTORS)}")
    chosen = choose(parts, options) if executor == "auto" else executor
    if chosen in CUDA_EXECUTORS:
        return start_on_stream(
            chosen, parts, options.stream, options.num_sms, options.priority, options.staging
        )
    if parts.gpu is not None:
        raise LayoutError(f"executor {chosen} cannot reach a buffer on {parts.gpu.device}")
    return _copy_on_cpu(chosen, parts, options.num_threads)


def choose(parts: PlanSet, options: CopyOptions) -> str:
    """The executor that "auto" means for this copy."""
    if parts.gpu is None:
        return "cpu"  # as cost.choose() says of every copy between host memories
    device, stream = stream_of(parts, options.stream)
    asked = Asked(
        num_sms=options.num_sms,
        slot_bytes=SLOT_BYTES if options.staging is None else options.staging.native.slot_bytes,
        on_null_stream=stream in _LEGACY_STREAMS and options.priority is None,
    )
    return choose_executor(parts, device, stream, asked)


def _copy_on_cpu(executor: str, parts: PlanSet, num_threads: int | None) -> Ticket:
    parts.wait_for_copies()
    with copy_ranges(executor, parts.direction, parts) as ranges:
        num_bytes = _C.copy_on_cpu(
            parts.native,
            reference=executor == "cpu_ref",
            num_threads=num_threads or 0,
            isa="auto",
        )
    return Ticket(num_bytes, (parts,), ranges=ranges)
