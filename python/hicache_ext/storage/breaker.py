"""CircuitBreaker: keeps calls away from an engine that does not answer, until it does again."""

import threading
import time
from collections.abc import Callable
from enum import Enum

from ..errors import StorageError


class BreakerState(Enum):
    """Calls go through; none does; one does, to find out."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half_open"


class Verdict(Enum):
    """What a call says about the engine, whatever it says about its pages."""

    GOOD = "good"  # it answered, be it with misses
    BAD = "bad"  # late, unreachable, or nothing but errors
    UNKNOWN = "unknown"  # ended before that could be told, e.g. cancelled by the caller


class CircuitBreaker:
    """CLOSED until `num_failures` bad verdicts in a row, then OPEN for `open_s`, then HALF_OPEN:
    the next call is the probe, and the others are kept away until its verdict closes or opens it.

    Deterministic: the state is a function of the verdicts and of `clock`. Thread-safe. A call that
    was admitted before the last change of state does not count any more.

        ticket = breaker.admit()
        if ticket is None:
            return misses
        ...
        breaker.settle(ticket, verdict)  # always, also when the call raised
    """

    def __init__(
        self,
        *,
        num_failures: int = 3,
        open_s: float = 5.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        if num_failures < 1 or not open_s > 0:
            raise StorageError(f"breaker: num_failures={num_failures}, open_s={open_s}: too small")
        self._num_failures = num_failures
        self._open_s = open_s
        self._clock = clock
        self._lock = threading.Lock()
        self._state = BreakerState.CLOSED
        self._era = 0  # counts the changes of state; the ticket of a call is the era it began in
        self._num_bad = 0
        self._opened_at_s = 0.0
        self._is_probing = False
        self._num_opened = 0

    @property
    def state(self) -> BreakerState:
        with self._lock:
            self._look_at_clock()
            return self._state

    @property
    def num_opened(self) -> int:
        """How often it went from CLOSED or HALF_OPEN to OPEN."""
        with self._lock:
            return self._num_opened

    def admit(self) -> int | None:
        """A ticket for one call, or None: do not call."""
        with self._lock:
            self._look_at_clock()
            if self._state is BreakerState.OPEN or self._is_probing:
                return None
            self._is_probing = self._state is BreakerState.HALF_OPEN
            return self._era

    def settle(self, ticket: int, verdict: Verdict) -> None:
        """What became of the call of this ticket."""
        with self._lock:
            if ticket != self._era:
                return
            self._is_probing = False
            if verdict is Verdict.GOOD:
                self._num_bad = 0
                if self._state is BreakerState.HALF_OPEN:
                    self._enter(BreakerState.CLOSED)
            elif verdict is Verdict.BAD:
                self._num_bad += 1
                if self._state is BreakerState.HALF_OPEN or self._num_bad >= self._num_failures:
                    self._open()

    def _look_at_clock(self) -> None:
        is_due = self._clock() - self._opened_at_s >= self._open_s
        if self._state is BreakerState.OPEN and is_due:
            self._enter(BreakerState.HALF_OPEN)

    def _open(self) -> None:
        self._opened_at_s = self._clock()
        self._num_opened += 1
        self._enter(BreakerState.OPEN)

    def _enter(self, state: BreakerState) -> None:
        self._state = state
        self._era += 1
        self._num_bad = 0
        self._is_probing = False
