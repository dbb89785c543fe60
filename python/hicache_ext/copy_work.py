"""A copy as its cost depends on it: how many runs of how many bytes, where, and how it is asked."""

from __future__ import annotations

import math
from dataclasses import dataclass

from hicache_ext.device_model import Direction

SEGMENT_BYTES = 16384  # the longest piece of a run that a kernel takes at a time


@dataclass(frozen=True)
class PartWork:
    """One plan of a copy: num_pages times runs_per_page runs of run_bytes."""

    num_pages: int
    runs_per_page: int
    run_bytes: int
    align_bytes: int = 128  # of every run on both sides
    host_run_bytes: int = 0  # contiguous on the host's side alone; 0: a run, not more

    @property
    def num_runs(self) -> int:
        return self.num_pages * self.runs_per_page

    @property
    def num_bytes(self) -> int:
        return self.num_runs * self.run_bytes

    @property
    def segments_per_run(self) -> int:
        """Into which a kernel cuts a run."""
        return math.ceil(self.run_bytes / SEGMENT_BYTES)

    @property
    def dma_bytes(self) -> int:
        """One copy between staging and the host."""
        return max(self.host_run_bytes, self.run_bytes)


@dataclass(frozen=True)
class Work:
    """A copy as its cost depends on it."""

    direction: Direction
    parts: tuple[PartWork, ...]
    num_threads: int = 1
    num_sms: int | None = None  # None: the executor's own quota
    has_host_ids: bool = True  # a list of page ids lies on the host
    has_device_ids: bool = False  # a list of page ids lies on the device
    is_capturing: bool = False  # the stream records a CUDA graph
    on_null_stream: bool = False  # the legacy default stream, which takes no batches

    @property
    def num_bytes(self) -> int:
        return sum(part.num_bytes for part in self.parts)
