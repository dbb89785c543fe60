"""When a prefetch is worth it, and how long a request waits for it. Equal on every rank."""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import Enum, IntEnum

from hicache_ext.errors import LayoutError


class PrefetchPolicy(Enum):
    """What `HiCache.poll` does when the request could go on and its prefetch is not over."""

    BEST_EFFORT = "best_effort"  # the request takes what is there
    WAIT_COMPLETE = "wait_complete"  # it waits for all of it
    TIMEOUT = "timeout"  # it waits for some time, then takes what is there


class ShortWindow(Enum):
    """What happens to the FULL pages of a prefetch whose window did not arrive whole."""

    KEEP_FULL = "keep_full"  # they stay as tombstones until a window joins them
    STRICT = "strict"  # all is dropped


class Refusal(IntEnum):
    """Why there is no prefetch; in the log of operations that ranks compare."""

    NO_STORE = 1  # none is attached, or it is being switched
    NOTHING_LACKS = 2  # L1 and L2 have all of it, or it is shorter than a page
    BELOW_THRESHOLD = 3
    RATE_LIMITED = 4  # ask again when other prefetches have ended

    @property
    def words(self) -> str:
        return {
            Refusal.NO_STORE: "no store is attached",
            Refusal.NOTHING_LACKS: "nothing lacks in L1 and L2",
            Refusal.BELOW_THRESHOLD: "what L1 and L2 lack is below the threshold",
            Refusal.RATE_LIMITED: "too many tokens are in flight",
        }[self]


@dataclass(frozen=True)
class PrefetchRules:
    """Checked when it is made."""

    policy: PrefetchPolicy = PrefetchPolicy.TIMEOUT
    timeout_s: float = 1.0  # from the first poll, and for each 1024 tokens of the span ...
    timeout_s_per_1k_tokens: float = 0.25  # ... so much more
    hang_s: float = 5.0  # a store call that gets no further for so long is given up
    threshold_tokens: int = 0  # a smaller gain is not worth a read
    max_tokens: int | None = None  # of all spans in flight; longer ones are cut; None: no limit
    max_queries: int = 1  # after a miss the store is asked again, so often in all ...
    retry_ticks: int = 8  # ... after a pause of so many ticks, while nobody polls
    short_window: ShortWindow = ShortWindow.KEEP_FULL

    def __post_init__(self) -> None:
        lowest = {
            "timeout_s": 0,
            "timeout_s_per_1k_tokens": 0,
            "hang_s": 0.01,
            "threshold_tokens": 0,
            "max_queries": 1,
            "retry_ticks": 1,
        }
        for name, low in lowest.items():
            value = getattr(self, name)
            if not low <= value < math.inf:
                raise LayoutError(f"prefetch {name}={value}: it must be finite and at least {low}")
        if self.max_tokens is not None and self.max_tokens < max(1, self.threshold_tokens):
            raise LayoutError(
                f"prefetch max_tokens={self.max_tokens} with "
                f"threshold_tokens={self.threshold_tokens}: none would ever begin"
            )

    def patience_s(self, num_tokens: int) -> float:
        """How long a request waits for a span of `num_tokens`."""
        if self.policy == PrefetchPolicy.WAIT_COMPLETE:
            return math.inf
        if self.policy == PrefetchPolicy.BEST_EFFORT:
            return 0.0
        return self.timeout_s + self.timeout_s_per_1k_tokens * num_tokens / 1024
