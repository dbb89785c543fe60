"""Reserve, vote, commit: no rank takes pages for the tree that another rank could not take.

Each rank reserves locally and votes with its shortage; the tick returns the largest one. If there
is any, all ranks give back, evict the same number of pages and try once more.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from enum import Enum

from hicache_ext.flow.pools import PoolSet
from hicache_ext.tier import Tier

# The vote of a rank whose pool is too small even when it is empty: no eviction would help.
NEVER = 1 << 40


class Verdict(Enum):
    """What the ranks decided about a reservation."""

    GRANTED = "granted"
    AGAIN = "again"  # evicted, reserved anew: vote once more
    REFUSED = "refused"  # given back everywhere


class Reservation:
    """Pages of one tier that one op needs on every rank or on none."""

    def __init__(
        self,
        pools: PoolSet,
        tier: Tier,
        need: Mapping[str, int],
        evict: Callable[[Tier, Mapping[str, int]], None],
    ) -> None:
        self._pools = pools
        self._tier = tier
        self._need = dict(need)
        self._evict = evict
        self._num_attempts = 0
        self.pages: dict[str, list[int]] = {}
        self._short: dict[str, int] = {}
        self._attempt()

    def _attempt(self) -> None:
        self._num_attempts += 1
        held = self._pools.reserve(self._tier, self._need)
        self.pages = held or {}
        self._short = {}
        if held is None:
            self._short = self._pools.shortage(self._tier, self._need)
            if not self._pools.fits(self._tier, self._need):
                self._short = dict.fromkeys(self._need, NEVER)

    def short(self) -> tuple[int, ...]:
        """This rank's vote: the pages that each pool lacks, zeros when all are held."""
        return tuple(self._short.get(name, 0) for name in self._pools.names)

    def apply(self, agreed_short: tuple[int, ...]) -> Verdict:
        """Takes the largest shortage of all ranks."""
        if not any(agreed_short):
            return Verdict.GRANTED
        self.release()
        if self._num_attempts > 1 or max(agreed_short) >= NEVER:
            return Verdict.REFUSED
        # The amount is agreed, so every rank's tree loses the same pages.
        short = zip(self._pools.names, agreed_short, strict=True)
        self._evict(self._tier, {name: n for name, n in short if n})
        self._attempt()
        return Verdict.AGAIN

    def release(self) -> None:
        self._pools.free(self._tier, self.pages)
        self.pages = {}
