"""Virtual time: nothing happens but by an event, and the next event is always known."""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any


class Clock:
    """Events in the order of their time, those of one time in the order in which they were set."""

    def __init__(self) -> None:
        self.now_ms = 0
        self._events: list[tuple[int, int, Callable[[], None]]] = []
        self._num_set = 0

    def after(self, delay_ms: int, call: Callable[[], None]) -> None:
        self._num_set += 1
        heapq.heappush(self._events, (self.now_ms + delay_ms, self._num_set, call))

    def run_next(self) -> bool:
        """False when nothing is left that could ever happen."""
        if not self._events:
            return False
        self.now_ms, _, call = heapq.heappop(self._events)
        call()
        return True


MAX_SCALE = 10
"""The longest delay, in scales."""


class Delays:
    """How long things take on one rank: often no time at all, sometimes many ticks."""

    def __init__(self, rng: random.Random, scale_ms: int) -> None:
        self.rng = rng
        self._scale_ms = scale_ms

    def draw(self) -> int:
        if self._scale_ms == 0 or self.rng.random() < 0.3:
            return 0
        return int(self._scale_ms * min(self.rng.paretovariate(1.5), MAX_SCALE))


class SimFuture(Future):
    """A call that begins and ends when its time has come, or when somebody waits for it.

    The call itself takes no time: what it does to memory in its last moment, it puts on `landing`.
    """

    def __init__(self, call: Callable[[], Any], landing: list[Callable[[], None]]) -> None:
        super().__init__()
        self._call: Callable[[], Any] | None = call
        self._landing = landing
        self._outcome: Any = None
        self._error: Exception | None = None
        self._late: list[Callable[[], None]] = []

    def begin(self) -> None:
        if self._call is None:
            return
        call, self._call = self._call, None
        try:
            self._outcome = call()
        except Exception as error:  # as a thread of a pool would
            self._error = error.with_traceback(None)
        self._late = self._landing.copy()
        self._landing.clear()

    def end(self) -> None:
        if self.done():
            return
        self.begin()
        for land in self._late:
            land()
        if self._error is None:
            self.set_result(self._outcome)
        else:
            self.set_exception(self._error)

    def exception(self, timeout: float | None = None) -> BaseException | None:
        self.end()
        return super().exception(timeout)


class SimIo:
    """The I/O threads of one rank: calls end in any order, and bytes land when they end."""

    def __init__(self, clock: Clock, delays: Delays) -> None:
        self.landing: list[Callable[[], None]] = []
        self._clock, self._delays = clock, delays
        self._futures: list[SimFuture] = []

    def submit(self, call: Callable[[], Any]) -> SimFuture:
        future = SimFuture(call, self.landing)
        self._futures.append(future)
        waits_ms, takes_ms = self._delays.draw(), self._delays.draw()
        self._after(waits_ms, future.begin)
        self._after(waits_ms + takes_ms, future.end)
        return future

    def _after(self, delay_ms: int, call: Callable[[], None]) -> None:
        if delay_ms:
            self._clock.after(delay_ms, call)
        else:
            call()

    def give_up(self, call: Future[Any]) -> None:
        pass

    def close(self) -> None:
        for future in self._futures:
            future.end()
