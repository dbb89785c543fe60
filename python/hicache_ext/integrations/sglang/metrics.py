"""What SGLang exports about its storage, and a log of trouble that does not flood."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from enum import Enum

logger = logging.getLogger(__name__)

MAX_SAMPLES = 4096  # between two collections; more than that, the oldest are dropped
LOG_PERIOD_S = 10.0


class Moved(Enum):
    """Which way pages went; SGLang's names of the two are "prefetch" and "backup"."""

    READ = "read"
    WRITTEN = "written"


_NAMES = {Moved.READ: "prefetch", Moved.WRITTEN: "backup"}


class Metrics:
    """Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._samples = _no_samples()
        self._num_failed_calls = 0
        self._num_unlogged = 0
        self._next_log_s = 0.0

    @property
    def num_failed_calls(self) -> int:
        """Calls of SGLang that an error made a miss, since the start."""
        return self._num_failed_calls

    def moved(self, what: Moved, num_pages: int, num_bytes: int, duration_s: float) -> None:
        """A call that moved so much; one that moved nothing has no bandwidth and is no sample."""
        if not num_pages:
            return
        with self._lock:
            self._samples[f"{_NAMES[what]}_pgs"].append(num_pages)
            rate = num_bytes / max(duration_s, 1e-9) / 1e9
            self._samples[f"{_NAMES[what]}_bandwidth"].append(rate)

    def failed(self, call: str, error: Exception) -> None:
        """A call that ended in an error: counted, and logged now and then."""
        now_s = time.monotonic()
        with self._lock:
            self._num_failed_calls += 1
            self._num_unlogged += 1
            if now_s < self._next_log_s:
                return
            num_calls, self._num_unlogged = self._num_unlogged, 0
            self._next_log_s = now_s + LOG_PERIOD_S
        logger.warning(
            "hicache_ext: %s: taken for a miss: %s: %s (%d such calls since the last line)",
            call,
            type(error).__name__,
            error,
            num_calls,
        )

    def collect(self) -> dict[str, list[float]]:
        """The samples since the last time, by the names of sglang's StorageMetrics: pages and GB/s
        of each call."""
        with self._lock:
            samples, self._samples = self._samples, _no_samples()
        return {name: list(values) for name, values in samples.items()}


def _no_samples() -> dict[str, deque[float]]:
    return {
        f"{name}_{what}": deque(maxlen=MAX_SAMPLES)
        for name in _NAMES.values()
        for what in ("pgs", "bandwidth")
    }
