"""Requests of the random traffic that are retracted: parked in L2, then restored or given up."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ranks import PAGE_SIZE, check_device
from traffic_setup import Request

from hicache_ext.flow.retract import Parked, ParkState

if TYPE_CHECKING:
    from traffic import Traffic


@dataclass
class Retracted:
    """A request, the handle of each rank, and the pages beyond its match, by rank."""

    request: Request
    tokens: list[int]
    handles: list[Parked]
    new: list[dict[str, list[int]]]


class Retraction:
    def __init__(self, traffic: Traffic) -> None:
        self.traffic, self.ranks, self.random = traffic, traffic.ranks, traffic.random
        self.retracted: list[Retracted] = []
        self.num_restored = 0

    def park(self) -> None:
        """A request that has computed some pages more is retracted; it is the op's from here on."""
        request = self.random.choice(self.traffic.held) if self.traffic.held else None
        if request is None or request.matches[0].loading:
            return
        num_done = len(request.matches[0].pages["full"])
        num_new = min(request.prompt.num_pages - num_done, self.random.choice([0, 1, 3]))
        new = self.traffic.alloc_filled(request, max(0, num_new))
        if new is None:
            return
        self.traffic.held.remove(request)
        tokens = request.prompt.tokens[: (num_done + max(0, num_new)) * PAGE_SIZE]
        handles = []
        for rank, match, pages in zip(self.ranks, request.matches, new, strict=True):
            given = {name: match.pages[name] + pages[name] for name in pages}
            handles.append(rank.cache.park(match, len(tokens), given))
        self.retracted.append(Retracted(request, tokens, handles, new))

    def come_back(self) -> None:
        """One that is parked is wanted again, or given up, now or while it is on its way."""
        if not self.retracted:
            return
        item = self.random.choice(self.retracted)
        state = item.handles[0].state
        if state == ParkState.PARKED and self.random.random() < 0.8:
            self.restore(item)
        elif state != ParkState.RUNNING and self.random.random() < 0.15:
            self.discard(item)
            self.settle()

    def discard(self, item: Retracted) -> None:
        if item.handles[0].is_discarded:
            return
        for rank, handle in zip(self.ranks, item.handles, strict=True):
            rank.cache.discard(handle)

    def wind_up(self, is_closed: bool) -> None:
        """The end is near: what is parked comes back, what is on its way may or may not."""
        self.settle()
        for item in [] if is_closed else self.retracted:
            if item.handles[0].state == ParkState.PARKED and not item.handles[0].is_discarded:
                self.restore(item)
            elif self.random.random() < 0.5:
                self.discard(item)

    def finish(self, is_closed: bool) -> None:
        """Nothing is in flight any more: what stayed parked for want of room is given up. A cache
        that was closed has done so itself.
        """
        for item in [] if is_closed else self.retracted:
            self.discard(item)
        self.settle()
        assert is_closed or not self.retracted

    def restore(self, item: Retracted) -> None:
        for rank, handle in zip(self.ranks, item.handles, strict=True):
            rank.cache.restore(handle)

    def settle(self) -> None:
        """Requests that run again hold their pages: those that were restored have their bytes."""
        for item in list(self.retracted):
            (state,) = {handle.state for handle in item.handles}
            if state not in (ParkState.RUNNING, ParkState.GONE):
                continue
            self.retracted.remove(item)
            if state == ParkState.RUNNING and item.handles[0].pages:
                self.num_restored += 1
                self._check_restored(item)
            elif state == ParkState.RUNNING:  # it was not parked, and goes on
                for rank, pages in zip(self.ranks, item.new, strict=True):
                    rank.cache.free(pages)
                self.traffic.held.append(item.request)

    def _check_restored(self, item: Retracted) -> None:
        namespace = item.request.prompt.namespace
        for rank, handle in zip(self.ranks, item.handles, strict=True):
            pages = self.traffic.with_sidecars(handle.pages)
            check_device(rank, item.tokens, pages, namespace, self.traffic.last_read)
            rank.cache.free(handle.pages)
