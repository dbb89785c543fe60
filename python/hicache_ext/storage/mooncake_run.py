"""The engine's calls of one call of a MooncakeStore: two at a time, each with its own deadline."""

import time
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

from ..errors import StorageError, StoreTimeout
from .lanes import Lane
from .mooncake_client import MooncakeClient
from .mooncake_codes import has_no_master, is_lossy
from .remote_call import SLICE_S, EngineError, EngineLate, Patience

# How long a call may still go on once its caller's limit is over. Then its pages stay borrowed.
GRACE_S = 0.05

C = TypeVar("C")


class EngineRun:
    """For one thread. Every lane has been left when go() returns or raises."""

    def __init__(self, client: MooncakeClient, patience: Patience) -> None:
        self._client = client
        self._patience = patience
        self._in_flight: deque[tuple[Lane, Any, float]] = deque()
        self._lost_s = 0.0  # in calls that a part of the cluster did not answer

    def go(
        self,
        chunks: Iterable[C],
        begin: Callable[[C, Lane], Callable[[], list[int]]],
        end: Callable[[C, Lane, list[int]], None],
    ) -> None:
        """One call of the engine for each chunk: `begin` makes it and `end` gets its codes, both on
        this thread, beside the call of another chunk.

        Returns early once calls without an answer from everywhere have cost `call_timeout_s`.
        CallOver when the patience is over, EngineError if the master does not answer, StoreTimeout
        if a call does not return in time: its chunk, and those in flight, were not given to `end`.
        """
        try:
            for chunk in chunks:
                lane = self._next_lane(end)
                if lane is None:
                    break
                try:
                    lane.start(begin(chunk, lane))
                except BaseException:
                    lane.leave()
                    raise
                self._in_flight.append((lane, chunk, time.monotonic()))
            while self._in_flight:
                self._finish_first(end)
        except StoreTimeout:
            raise
        except BaseException:
            self._drain(end)
            raise

    def _next_lane(self, end: Callable[[Any, Lane, list[int]], None]) -> Lane | None:
        """None if there is to be no further call."""
        lanes = self._client.lanes
        if len(self._in_flight) == 2:
            self._finish_first(end)
        while self._lost_s < self._client.call_timeout_s:
            self._patience.left_s()
            lane = lanes.take(0.0 if self._in_flight else SLICE_S)
            if lane is not None:
                return lane
            if self._in_flight:
                self._finish_first(end)
            elif lanes.are_all_left:
                raise EngineError(f"Mooncake at {self._client.master}: every call hangs")
        return None

    def _finish_first(self, end: Callable[[Any, Lane, list[int]], None]) -> None:
        lane, chunk, begun_s = self._in_flight[0]
        self._wait(lane, begun_s)
        self._in_flight.popleft()
        try:
            codes: list[int] = lane.result()
            end(chunk, lane, codes)
        finally:
            lane.leave()
        if is_lossy(codes):
            self._lost_s += time.monotonic() - begun_s
        if has_no_master(codes):
            raise EngineError(f"Mooncake at {self._client.master}: codes {sorted(set(codes))}")

    def _wait(self, lane: Lane, begun_s: float) -> None:
        while not lane.wait(SLICE_S):
            seconds = time.monotonic() - begun_s
            message = f"Mooncake at {self._client.master}: no return after {seconds:.3f} s"
            if seconds >= self._client.call_timeout_s:
                raise EngineLate(message, self._leave())
            if self._patience.is_over and not lane.wait(GRACE_S):
                raise StoreTimeout(message, self._leave())

    def _leave(self) -> Callable[[float | None], bool]:
        """Waits for the calls that are in flight now, and which this run gives up."""
        returned = [lane.leave() for lane, _, _ in self._in_flight]
        self._in_flight.clear()

        def wait(timeout_s: float | None) -> bool:
            end_s = None if timeout_s is None else time.monotonic() + timeout_s
            return all(
                event.wait(None if end_s is None else max(0.0, end_s - time.monotonic()))
                for event in returned
            )

        return wait

    def _drain(self, end: Callable[[Any, Lane, list[int]], None]) -> None:
        """Something ends the run early: it is not told before the engine has let go."""
        while self._in_flight:
            try:
                self._finish_first(end)
            except StoreTimeout:
                raise
            except (EngineError, StorageError):
                continue  # what is on its way already says more
