"""Limit: how long a store call may take, and a way to end it sooner."""

import threading
import time


class Limit:
    """A deadline and a cancellation in one. Thread-safe; one object may go to several calls.

    A call whose limit is over returns soon and tells what it has not done as False: that is no
    error. What it has done by then stays done.
    """

    def __init__(self, timeout_s: float | None = None) -> None:
        """`timeout_s` counts from now; None is for ever, 0 or less is over at once."""
        self._deadline_s = None if timeout_s is None else time.monotonic() + timeout_s
        self._cancelled = threading.Event()
        self.cancel_flag = bytearray(
            1
        )  # [0] = 1 when cancelled, for code that does not speak Python

    def cancel(self) -> None:
        """From any thread; the calls that hold this limit end as if their time had run out."""
        self.cancel_flag[0] = 1
        self._cancelled.set()

    @property
    def deadline_ns(self) -> int:
        """Of the monotonic clock; 0 for a limit without a deadline."""
        return 0 if self._deadline_s is None else max(1, int(self._deadline_s * 1e9))

    @property
    def is_over(self) -> bool:
        return self._cancelled.is_set() or self.remaining_s() == 0.0

    def remaining_s(self) -> float | None:
        """Seconds that are left, at least 0; None for a limit without a deadline."""
        if self._cancelled.is_set():
            return 0.0
        if self._deadline_s is None:
            return None
        return max(0.0, self._deadline_s - time.monotonic())

    def sleep(self, seconds: float) -> None:
        """Until then, or until the limit is over."""
        left = self.remaining_s()
        self._cancelled.wait(seconds if left is None else min(seconds, left))


def is_over(limit: Limit | None) -> bool:
    """No limit is never over."""
    return limit is not None and limit.is_over
