"""Store calls that run when a test says so."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from typing import Any


class ManualFuture(Future):
    """Its call runs when the test says so, or when somebody waits for it."""

    def __init__(self, call: Callable[[], Any]) -> None:
        super().__init__()
        self._call = call

    def run(self) -> None:
        if not self.done():
            try:
                self.set_result(self._call())
            except Exception as error:
                self.set_exception(error.with_traceback(None))  # as InlineIo does

    def exception(self, timeout: float | None = None) -> BaseException | None:
        self.run()
        return super().exception(timeout)


class ManualIo:
    """Store calls wait until the test runs them."""

    def __init__(self) -> None:
        self._waiting: list[ManualFuture] = []
        self.num_given_up = 0

    def submit(self, call: Callable[[], Any]) -> ManualFuture:
        self._waiting.append(ManualFuture(call))
        return self._waiting[-1]

    def run(self) -> int:
        """Runs what is waiting; returns how many calls that were."""
        futures, self._waiting = self._waiting, []
        for future in futures:
            future.run()
        return len(futures)

    def give_up(self, call: Future[Any]) -> None:
        self.num_given_up += 1

    def close(self) -> None:
        self.run()
