"""Lanes: threads that make a foreign engine's blocking calls, so that who asked can leave."""

import queue
import threading
import time
from collections.abc import Callable
from typing import Any


class Lane:
    """One call at a time. What the call was given stays alive until the engine has returned, also
    when nobody waits for it any more: buffers cannot be freed under it.

    The thread is a daemon: a process can end while an engine hangs.
    """

    def __init__(self, index: int, give_back: Callable[["Lane"], None]) -> None:
        self.index = index
        self._give_back = give_back
        self._calls: queue.SimpleQueue[Callable[[], Any] | None] = queue.SimpleQueue()
        self._lock = threading.Lock()  # of the two flags that decide who gives the lane back
        self._is_left = False
        self._returned = threading.Event()
        self._returned.set()
        self._value: Any = None
        self._error: Exception | None = None
        self._thread = threading.Thread(target=self._run, daemon=True, name=f"lane-{index}")
        self._thread.start()

    def start(self, fn: Callable[[], Any]) -> None:
        """Runs it on the lane's thread. The lane was taken, and its last call is over."""
        self._returned = threading.Event()
        self._value = self._error = None
        self._calls.put(fn)

    def wait(self, timeout_s: float) -> bool:
        """Until the call has returned, or for so long; whether it has."""
        return self._returned.wait(timeout_s)

    def result(self) -> Any:
        """What the call returned or raised; it has returned."""
        if self._error is not None:
            raise self._error
        return self._value

    def leave(self) -> threading.Event:
        """Give the lane back as soon as its call is over; the event is set by then."""
        returned = self._returned
        with self._lock:
            self._is_left = not returned.is_set()
            if self._is_left:
                return returned
        self._give_back(self)
        return returned

    @property
    def is_left(self) -> bool:
        """Whether a call is in flight that nobody waits for."""
        with self._lock:
            return self._is_left

    def stop(self) -> None:
        """Ends the thread; no call is in flight."""
        self._calls.put(None)
        self._thread.join()

    def _run(self) -> None:
        while (fn := self._calls.get()) is not None:
            try:
                self._value = fn()
            except Exception as error:
                self._error = error.with_traceback(None)  # its frames hold the buffers
            del fn  # before it is told that the call is over
            with self._lock:
                self._returned.set()
                is_left, self._is_left = self._is_left, False
            if is_left:
                self._value = self._error = None
                self._give_back(self)


class Lanes:
    """A fixed number of lanes. One whose call does not return is missing until it does: that many
    calls can hang in the engine, and no more."""

    def __init__(self, num_lanes: int) -> None:
        self._free: queue.LifoQueue[Lane] = queue.LifoQueue()
        self._all = [Lane(index, self._free.put) for index in range(num_lanes)]
        for lane in self._all:
            self._free.put(lane)

    @property
    def are_all_left(self) -> bool:
        """Whether every lane has a call that somebody gave up on."""
        return all(lane.is_left for lane in self._all)

    def take(self, timeout_s: float) -> Lane | None:
        """A lane with no call, which is the caller's until leave(); None if none comes in time."""
        try:
            return self._free.get(timeout_s > 0, max(0.0, timeout_s))
        except queue.Empty:
            return None

    def close(self, timeout_s: float) -> bool:
        """Ends the threads whose calls return in time; whether all did."""
        end_s = time.monotonic() + timeout_s
        for _ in self._all:
            lane = self.take(end_s - time.monotonic())
            if lane is None:
                return False
            lane.stop()
        return True
