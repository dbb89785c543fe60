"""Retraction: the pages of a running request are parked in L2, and come back or are given up.

    RUNNING --park--> PARKING --> PARKED --restore--> RESTORING --> RUNNING
       ^                 |           ^                    |
       +---- refused ----+           +----- refused ------+         discard: GONE, from any of them

Both ways are transfers like any other: pages on every rank or on none. Nothing of it is in the
tree, so nothing can evict it. Who owns the pages:

    PARKING     device pages: the op, which reads them; host pages: the op
    PARKED      host pages: the handle; the device pages are free, the match is released
    RESTORING   host pages: the op, which reads them; device pages: the op
    RUNNING     device pages: the request, as after alloc
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import Enum

from hicache_ext.errors import TreeError
from hicache_ext.flow.context import FlowContext
from hicache_ext.flow.pools import Pages, PoolSet
from hicache_ext.flow.record import Outcome, ParkRecord, RestoreRecord
from hicache_ext.flow.transfer import TransferOp
from hicache_ext.pool import PageState
from hicache_ext.tier import Tier


class ParkState(Enum):
    """Where the pages of a request are."""

    PARKING = "parking"
    PARKED = "parked"
    RESTORING = "restoring"
    RUNNING = "running"
    GONE = "gone"


@dataclass(eq=False)
class Parked:
    """A request that was retracted. Made by `HiCache.park`; ended by `restore` or `discard`."""

    op_id: int  # of the park
    num_tokens: int
    namespace: bytes
    request: str | None = None  # its name
    state: ParkState = ParkState.PARKING
    pages: dict[str, list[int]] = field(default_factory=dict)
    """Once restored: one id per page and pool, -1 where the request held none. The caller's."""
    is_discarded: bool = False  # while an op is in flight: what it holds is given up at its end
    host_pages: dict[str, list[int]] = field(default_factory=dict)  # without holes
    holes: dict[str, list[bool]] = field(default_factory=dict)  # by page: nothing to keep

    def check_state(self, call: str, *states: ParkState) -> None:
        """TreeError unless the handle is in one of these states."""
        if self.state not in states or self.is_discarded:
            state = "discarded" if self.is_discarded else self.state.value
            raise TreeError(f"{call} of retracted request {self.op_id}, which is {state}")

    def give_up(self, pools: PoolSet) -> None:
        """Frees the host pages."""
        pools.free(Tier.HOST, self.host_pages)
        self.host_pages, self.state = {}, ParkState.GONE

    def fill(self, ids: Pages) -> dict[str, list[int]]:
        """One id per page, from those without holes."""
        left = {name: iter(ids.get(name, ())) for name in self.holes}
        return {
            name: [-1 if hole else next(left[name]) for hole in holes]
            for name, holes in self.holes.items()
        }


def check_parked(parked: object) -> None:
    """TreeError for what is no handle of a retracted request."""
    if not isinstance(parked, Parked):
        raise TreeError(f"{parked!r} is not parked: no handle of a retracted request")


class ParkOp(TransferOp):
    """Device to host; `on_end` hears when the handle has its next state."""

    record: ParkRecord

    def __init__(
        self, ctx: FlowContext, parked: Parked, sources: Pages, on_end: Callable[[], None]
    ) -> None:
        """`sources`: device pages without holes; those that alloc handed out are in I/O now."""
        num_pages = {name: len(ids) for name, ids in sources.items()}
        super().__init__(ctx, ParkRecord(parked.op_id, num_pages), Tier.HOST, sources)
        self._parked = parked
        self._on_end = on_end
        allocators = {n: ctx.pools.get(Tier.DEVICE, n).allocator for n in sources}
        self._own = {
            name: [i for i in ids if allocators[name].state(i) == PageState.RESERVED]
            for name, ids in sources.items()
        }
        ctx.pools.move(Tier.DEVICE, self._own, PageState.IO)  # nobody frees them under the copy

    def _apply_copy(self) -> bool:
        self._parked.host_pages = dict(self._take_pages())
        self._parked.state = ParkState.PARKED
        if self._parked.is_discarded:
            self._parked.give_up(self._ctx.pools)
        self._give_up_device()
        return self._finish(Outcome.COMMITTED)

    def _give_up_device(self) -> None:
        self._ctx.pools.move(Tier.DEVICE, self._own, PageState.RESERVED)
        self._ctx.pools.free(Tier.DEVICE, self._own)
        self._on_end()

    def _abandon(self) -> None:
        """The request goes on as if nobody had asked, or is over if it was discarded."""
        if self._parked.is_discarded:
            self._parked.state = ParkState.GONE
            self._give_up_device()
        else:
            self._parked.state = ParkState.RUNNING
            self._ctx.pools.move(Tier.DEVICE, self._own, PageState.RESERVED)
            self._on_end()


class RestoreOp(TransferOp):
    """Host to device; `on_end` hears when the handle holds no host pages any more."""

    record: RestoreRecord

    def __init__(
        self, ctx: FlowContext, op_id: int, parked: Parked, on_end: Callable[[Parked], None]
    ) -> None:
        sources = parked.host_pages
        num_pages = {name: len(ids) for name, ids in sources.items()}
        super().__init__(ctx, RestoreRecord(op_id, num_pages), Tier.DEVICE, sources)
        self._parked = parked
        self._on_end = on_end
        parked.state = ParkState.RESTORING

    def _apply_copy(self) -> bool:
        pages: Mapping[str, list[int]] = self._take_pages()
        self._parked.give_up(self._ctx.pools)
        if self._parked.is_discarded:
            self._ctx.pools.free(Tier.DEVICE, pages)
        else:
            self._parked.pages = self._parked.fill(pages)
            self._parked.state = ParkState.RUNNING
        self._on_end(self._parked)
        return self._finish(Outcome.COMMITTED)

    def _abandon(self) -> None:
        """It stays parked."""
        self._parked.state = ParkState.PARKED
        if self._parked.is_discarded:
            self._parked.give_up(self._ctx.pools)
            self._on_end(self._parked)
