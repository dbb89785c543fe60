"""A copy as its cost depends on it: how many runs of how many bytes, where, and how it is asked."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from hicache_ext.device_model import Direction

if TYPE_CHECKING:
    from hicache_ext import _C

SEGMENT_BYTES = 16384  # the longest piece of a run that a kernel takes at a time


@dataclass(frozen=True)
class PartWork:
    """One plan of a copy: num_pages times runs_per_page runs of run_bytes."""

    num_pages: int
    runs_per_page: int
    run_bytes: int
    align_bytes: int = 128  # of every run on both sides
    host_run_bytes: int = 0  # contiguous on the host's side alone; 0: a run, not more
    num_steps: int = 1  # more: all pages of a layer come before the next layer

    @classmethod
    def of_plan(cls, plan: _C.Plan, num_pages: int, direction: Direction) -> PartWork:
        """num_pages of a plan, whose host side is the one that the direction names."""
        host_run_bytes = 0
        if direction is Direction.HOST_TO_DEVICE:
            host_run_bytes = _contiguous_bytes(plan, stride_at=2, planes_at=4)
        elif direction is Direction.DEVICE_TO_HOST:
            host_run_bytes = _contiguous_bytes(plan, stride_at=3, planes_at=5)
        runs_per_page, align_bytes = plan.runs_per_page, plan.align_bytes
        run_bytes, num_steps = plan.run_bytes, plan.num_steps
        return cls(num_pages, runs_per_page, run_bytes, align_bytes, host_run_bytes, num_steps)

    @property
    def num_runs(self) -> int:
        return self.num_pages * self.runs_per_page

    @property
    def num_bytes(self) -> int:
        return self.num_runs * self.run_bytes

    @property
    def packed_bytes(self) -> int:
        """A page in the staging memory."""
        return (self.runs_per_page * self.run_bytes + 15) // 16 * 16

    @property
    def segments_per_run(self) -> int:
        """Into which a kernel cuts a run."""
        return math.ceil(self.run_bytes / SEGMENT_BYTES)

    @property
    def dma_bytes(self) -> int:
        """One copy between staging and the host."""
        return max(self.host_run_bytes, self.run_bytes)


def _contiguous_bytes(plan: _C.Plan, stride_at: int, planes_at: int) -> int:
    """Of a page on one side alone: the run and the axes that go on without a gap there."""
    num_bytes = plan.run_bytes
    in_plane = (axis for axis in plan.axes if axis[planes_at] == 0)
    for axis in sorted(in_plane, key=lambda axis: axis[stride_at]):
        if axis[stride_at] != num_bytes:
            break
        num_bytes *= axis[1]
    return num_bytes


@dataclass(frozen=True)
class Work:
    """A copy as its cost depends on it."""

    direction: Direction
    parts: tuple[PartWork, ...]
    num_threads: int = 1
    num_sms: int | None = None  # None: the executor's own quota
    slot_bytes: int = 32 << 20  # one of the two slots of the staging memory
    has_host_ids: bool = True  # a list of page ids lies on the host
    has_device_ids: bool = False  # a list of page ids lies on the device
    is_capturing: bool = False  # the stream records a CUDA graph
    on_null_stream: bool = False  # the legacy default stream, which takes no batches

    @property
    def num_bytes(self) -> int:
        return sum(part.num_bytes for part in self.parts)
