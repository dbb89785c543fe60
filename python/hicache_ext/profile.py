"""What a profiler shows of copies: NVTX ranges in the domain `hicache`; see docs/profiling.md."""

from __future__ import annotations

from types import TracebackType
from typing import TYPE_CHECKING

from hicache_ext import _C
from hicache_ext.device_model import Direction

if TYPE_CHECKING:
    from hicache_ext.plan_set import PlanSet

_What = tuple[str, _C.CopyDirection, int, int]  # executor, direction, bytes, runs


class CopyRanges:
    """The ranges of a copy: around its enqueue, and from there until the copy is seen done.

    with copy_ranges(...) as ranges: enqueue it; then ranges.close() when it is seen done. An error
    in the enqueue closes both. Of None there is nothing to show.
    """

    __slots__ = ("_id", "_what")

    def __init__(self, what: _What | None) -> None:
        self._what = what
        self._id: int | None = None

    def __enter__(self) -> CopyRanges:
        if self._what is not None:
            self._id = _C.begin_copy(*self._what)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        where: TracebackType | None,
    ) -> None:
        if self._what is not None:
            _C.end_enqueue()
            if error is not None:
                self.close()

    def close(self) -> None:
        """The copy is seen done; a second call does nothing."""
        if self._id is not None:
            ended, self._id = self._id, None
            _C.end_copy(ended)


NO_RANGES = CopyRanges(None)


def copy_ranges(executor: str, direction: Direction, parts: PlanSet) -> CopyRanges:
    """Of a copy that is about to be enqueued; none where no tool is attached."""
    if not _C.is_profiled():
        return NO_RANGES
    shown = getattr(_C.CopyDirection, direction.name)
    return CopyRanges((executor, shown, parts.num_bytes, parts.num_runs))
