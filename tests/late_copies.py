"""Copies as on a GPU: under way for some ticks, or failing at the start or at the end."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from typing import Any

from hicache_ext.errors import CudaError
from hicache_ext.flow.pools import Copies, PoolSet
from hicache_ext.pool import PageState
from hicache_ext.tier import Tier

Pages = Mapping[str, Sequence[int]]


class LateCopies(PoolSet):
    """Stands in for the PoolSet of one cache, see `install`."""

    late_random: random.Random
    fail_rate: float

    def copy(self, to: Tier, sources: Pages, targets: Pages) -> Any:
        fate = self.late_random.random() / self.fail_rate
        if fate < 1:
            raise CudaError("told to fail at the start")
        return LateCopy(self, to, sources, targets, self.late_random.randrange(3), fate < 2)


class LateCopy:
    """Moves the bytes at the last moment, when every page must still be where the copy left it."""

    def __init__(
        self, pools: PoolSet, to: Tier, sources: Pages, targets: Pages, delay: int, fails: bool
    ) -> None:
        self._args = to, sources, {name: list(ids) for name, ids in targets.items()}
        self._pools, self._delay, self._fails = pools, delay, fails
        self._copies: Copies | None = None

    def done(self) -> bool:
        self._delay -= 1
        if self._delay < 0:
            self.wait()
        return self._copies is not None

    def wait(self) -> None:
        if self._copies is None:
            to, sources, targets = self._args
            self._check(to, targets, PageState.IO)
            self._check(
                Tier.HOST if to == Tier.DEVICE else Tier.DEVICE, sources, PageState.ATTACHED
            )
            self._copies = PoolSet.copy(self._pools, to, sources, targets)

    def result(self) -> int:
        self.wait()
        if self._fails:
            raise CudaError("told to fail at the end")
        assert self._copies is not None
        return self._copies.result()

    def _check(self, tier: Tier, pages: Pages, want: PageState) -> None:
        for name, ids in pages.items():
            states = {self._pools.get(tier, name).allocator.state(i) for i in ids}
            assert states <= {want}, (tier, name, states)


def install(pools: PoolSet, seed: int, fail_rate: float) -> None:
    """Makes every later copy between these pools a late one."""
    pools.__class__ = LateCopies
    assert isinstance(pools, LateCopies)
    pools.late_random, pools.fail_rate = random.Random(seed), fail_rate
