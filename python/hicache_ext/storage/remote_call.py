"""A call to a server: how long it may still take, and how it can end early."""

import time

from .limit import Limit

SLICE_S = 0.02  # a cancellation is noticed after at most this long


class CallOver(Exception):
    """The call has no time left, or was cancelled: what it has not done by now is a miss."""


class EngineError(Exception):
    """The server cannot be reached, answers nonsense, or refuses everything."""


class Patience:
    """The time of one call: the caller's limit, and what the store itself allows."""

    def __init__(self, limit: Limit | None, timeout_s: float) -> None:
        self._limit = limit
        self._deadline_s = time.monotonic() + timeout_s

    def at_most(self, timeout_s: float) -> "Patience":
        """For a part of the call that has less time."""
        return Patience(self._limit, min(timeout_s, self._deadline_s - time.monotonic()))

    @property
    def is_server_late(self) -> bool:
        """The store's own time is up: no wish of the caller."""
        return time.monotonic() >= self._deadline_s

    @property
    def is_over(self) -> bool:
        return self._left_s() <= 0

    def left_s(self) -> float:
        """Above 0; CallOver when there is no time."""
        left = self._left_s()
        if left <= 0:
            raise CallOver
        return left

    def wait_s(self) -> float:
        """How long to wait now before asking again, above 0; CallOver when there is no time."""
        return min(self.left_s(), SLICE_S)

    def _left_s(self) -> float:
        left = self._deadline_s - time.monotonic()
        of_caller = None if self._limit is None else self._limit.remaining_s()
        return left if of_caller is None else min(left, of_caller)
