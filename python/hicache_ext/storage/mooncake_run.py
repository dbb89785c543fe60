"""The engine's calls of one call of a MooncakeStore: one after the other, each with a deadline."""

import threading
import time
from collections.abc import Callable, Iterable
from typing import Generic, TypeVar

from ..errors import StorageError, StoreTimeout
from .lanes import Lane
from .mooncake_client import MooncakeClient
from .mooncake_codes import has_no_master, is_lossy
from .remote_call import SLICE_S, EngineError, Patience

# How long a call may still go on once its caller's limit is over. Then its pages stay borrowed.
GRACE_S = 0.05

C = TypeVar("C")
Begin = Callable[[C, Lane], Callable[[], list[int]]]
End = Callable[[C, Lane, list[int]], None]


class EngineRun(Generic[C]):
    """For one thread. `begin` makes the engine's call of a chunk and `end` gets its codes, both on
    this thread, beside the call of the chunk before or after: that is when pages are checksummed.

    Not two calls at once: the engine polls while it waits, so a second call would cost more
    processor time than it gains (measured: docs/mooncake.md). With `moves`, a place in it is taken
    for each call that is waited for.
    """

    def __init__(
        self,
        client: MooncakeClient,
        patience: Patience,
        begin: Begin[C],
        end: End[C],
        moves: threading.Semaphore | None = None,
    ) -> None:
        self._client = client
        self._patience = patience
        self._begin = begin
        self._end = end
        self._moves = moves
        self._running: tuple[Lane, C, float] | None = None
        self._lost_s = 0.0  # in calls that a part of the cluster did not answer

    def go(self, chunks: Iterable[C]) -> None:
        """Every lane has been left when this returns or raises.

        Returns early once calls without an answer from everywhere have cost `call_timeout_s`.
        CallOver when the patience is over, EngineError if the master does not answer, StoreTimeout
        if a call does not return in time: its codes were not given to `end`.
        """
        try:
            for chunk in chunks:
                lane = self._take_lane()
                if lane is None:
                    break
                try:
                    call = self._begin(chunk, lane)
                    before = self._ended()
                except BaseException:
                    lane.leave()
                    raise
                try:
                    self._start(lane, chunk, call)
                finally:
                    self._hand_over(before)
            self._hand_over(self._ended())
        except StoreTimeout:
            raise
        except BaseException:
            self._drain()
            raise

    def _take_lane(self) -> Lane | None:
        """None if there is to be no further call."""
        lanes = self._client.lanes
        while self._lost_s < self._client.call_timeout_s:
            self._patience.left_s()
            lane = lanes.take(SLICE_S if self._running is None else 0.0)
            if lane is not None:
                return lane
            if self._running is None and lanes.are_all_left:
                raise EngineError(f"Mooncake at {self._client.master}: every call hangs")
            self._hand_over(self._ended())
        return None

    def _start(self, lane: Lane, chunk: C, call: Callable[[], list[int]]) -> None:
        try:
            while self._moves and not self._moves.acquire(timeout=SLICE_S):
                self._patience.left_s()
        except BaseException:
            lane.leave()
            raise
        lane.start(call)
        self._running = (lane, chunk, time.monotonic())

    def _ended(self) -> tuple[Lane, C, list[int]] | None:
        """The call that is running, when it has returned; None if there is none."""
        if self._running is None:
            return None
        lane, chunk, begun_s = self._running
        try:
            self._wait(lane, begun_s)
        finally:  # a call that is given up does not keep others away
            self._running = None
            if self._moves:
                self._moves.release()
        try:
            codes: list[int] = lane.result()
        except BaseException:
            lane.leave()
            raise
        if is_lossy(codes):
            self._lost_s += time.monotonic() - begun_s
        if has_no_master(codes):
            self._hand_over((lane, chunk, codes))
            raise EngineError(f"Mooncake at {self._client.master}: codes {sorted(set(codes))}")
        return lane, chunk, codes

    def _hand_over(self, ended: tuple[Lane, C, list[int]] | None) -> None:
        if ended is not None:
            lane, chunk, codes = ended
            try:
                self._end(chunk, lane, codes)
            finally:
                lane.leave()

    def _wait(self, lane: Lane, begun_s: float) -> None:
        end_s = begun_s + self._client.call_timeout_s
        while not lane.wait(SLICE_S):
            is_late = time.monotonic() >= end_s
            if is_late or (self._patience.is_over and not lane.wait(GRACE_S)):
                seconds = time.monotonic() - begun_s
                message = f"Mooncake at {self._client.master}: no return after {seconds:.3f} s"
                raise StoreTimeout(message, lane.leave().wait)

    def _drain(self) -> None:
        """Something ends the run early: it is not told before the engine has let go."""
        try:
            self._hand_over(self._ended())
        except StoreTimeout:
            raise
        except (EngineError, StorageError):
            return  # what is on its way already says more
