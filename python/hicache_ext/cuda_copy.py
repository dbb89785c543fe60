"""Copies on a CUDA stream: sm_reg, sm_bulk, ce_batch and staged."""

from __future__ import annotations

from enum import Enum
from typing import Any

from hicache_ext import _C, arrays
from hicache_ext.checks import MAX_BYTES, MAX_INT, require_whole
from hicache_ext.errors import LayoutError
from hicache_ext.plan_set import PlanSet
from hicache_ext.profile import copy_ranges
from hicache_ext.streams import current_stream, order_after_producer, stream_handle
from hicache_ext.ticket import Ticket

CUDA_EXECUTORS = ("sm_reg", "sm_bulk", "ce_batch", "staged")


class Priority(Enum):
    """Of a stream of the library's own, which runs beside the caller's."""

    LOW = "low"
    HIGH = "high"


class StagingRing:
    """Memory on a GPU through which the staged executor moves pages, in two slots.

    array: the caller's, contiguous and on the GPU, kept alive by the ring; by default num_bytes are
    allocated on GPU `device` and freed with the ring. A page must fit into a slot, and copies that
    share a ring take turns. Without a ring of its own a copy uses the one of its GPU, which is
    allocated by the first and holds 64 MiB.
    LayoutError: an array that is not on a GPU, or too small; CudaError: no such GPU, no memory.
    """

    def __init__(
        self, array: Any = None, *, num_bytes: int = _C.STAGING_BYTES, device: int = 0
    ) -> None:
        address = 0
        require_whole("device", device, least=0, most=MAX_INT)
        if array is not None:
            seen = arrays.view(array)
            if seen.device == "cpu" or not seen.is_contiguous or not seen.is_writable:
                raise LayoutError(
                    f"staging must be a contiguous, writable array on a GPU, not one on "
                    f"{seen.device} (contiguous={seen.is_contiguous}, writable={seen.is_writable})"
                )
            address, num_bytes, device = seen.address, seen.num_bytes, device_idx(seen.device)
        require_whole("num_bytes", num_bytes, most=MAX_BYTES)
        self._array = array
        self.native = _C.StagingRing(device=device, address=address, num_bytes=num_bytes)


class _Captured:
    """A copy inside of a CUDA graph: never under way itself, and owner of what replays read."""

    def __init__(self, native: _C.CopyTicket, owned: tuple[object, ...]) -> None:
        self._native = native
        self._owned = owned

    def query(self) -> bool:
        return True

    def wait(self) -> None:
        pass

    def wait_on_stream(self, stream: int) -> None:
        self._native.wait_on_stream(stream)

    def result(self) -> int:
        return self._native.result()


def device_idx(device: str) -> int:
    """1 for "cuda:1"."""
    return int(device.partition(":")[2] or 0)


def stream_of(parts: PlanSet, stream: Any) -> tuple[int, int]:
    """(GPU of the copy, handle of `stream` or else of the framework's current one)."""
    if parts.gpu is None:
        return 0, 0 if stream is None else stream_handle(stream, 0)
    device = device_idx(parts.gpu.device)
    if stream is None:
        return device, current_stream(parts.gpu.array, device)
    return device, stream_handle(stream, device)


def start_on_stream(
    executor: str,
    parts: PlanSet,
    stream: Any,
    num_sms: int | None = None,
    priority: Priority | None = None,
    staging: StagingRing | None = None,
) -> Ticket:
    """Enqueues the copy; see copy_pages."""
    device, handle = stream_of(parts, stream)
    for array in parts.gpu_arrays:
        order_after_producer(array, device, handle)
    if not _C.is_capturing(device, handle):  # a graph has no place for waits on what runs now
        parts.wait_for_copies(handle)
    with copy_ranges(executor, parts.direction, parts) as ranges:
        running = _C.copy_on_stream(
            parts.native,
            executor=executor,
            device=device,
            num_sms=num_sms or 0,
            stream=handle,
            priority=None if priority is None else priority.value,
            ring=None if staging is None else staging.native,
        )
    owned = (parts, staging)
    if running.is_captured:
        return Ticket(0, (), _Captured(running, owned), ranges)
    return parts.record(Ticket(0, owned, running, ranges))
