"""Deadlines: one for several steps, and one for calls that may hang."""

import threading
import time
from collections.abc import Callable
from typing import Generic, TypeVar

_T = TypeVar("_T")


class Countdown:
    """One deadline for several steps."""

    def __init__(self, deadline_s: float) -> None:
        self.deadline_s, self._end_s = deadline_s, time.monotonic() + deadline_s

    @property
    def left_s(self) -> float:
        return max(0.0, self._end_s - time.monotonic())


class Bounded(Generic[_T]):
    """`call` in a thread of its own, from now on: one that hangs is left behind.

    E.g. a call of a store whose host is gone.
    """

    def __init__(self, call: Callable[[], _T], name: str) -> None:
        self._call, self._start_s = call, time.monotonic()
        self._answer: list[_T] = []
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, daemon=True, name=name)
        self._thread.start()

    @property
    def age_s(self) -> float:
        """Since when it runs, or ran."""
        return time.monotonic() - self._start_s

    @property
    def has_ended(self) -> bool:
        return not self._thread.is_alive()

    def _run(self) -> None:
        try:
            self._answer.append(self._call())
        except Exception as error:  # raised again where the answer is asked for
            self._error = error

    def result(self, max_s: float) -> _T:
        """What it returned, or what it raised; TimeoutError if it has not ended after `max_s`."""
        self._thread.join(max(max_s, 0.0))
        if self._error is not None:
            raise self._error
        if not self._answer:
            raise TimeoutError(f"no answer after {max_s:.3g} s")
        return self._answer[0]
