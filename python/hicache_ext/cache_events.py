"""What the cache tells about itself: events for routers, records of requests for people."""

from __future__ import annotations

from hicache_ext.cache_base import CacheBase
from hicache_ext.events import Event, router_events
from hicache_ext.history import RequestRecord


class EventCalls(CacheBase):
    """The part of HiCache that changes nothing."""

    def take_events(self) -> list[Event]:
        """What joined and left L1 and L2 since the last call, oldest first, in the form of
        events.py; [] on a rank made without `has_events`. To be called about once per step.
        """
        return router_events(self.tree.take_events(), self.tree.page_size, self.tree.unit)

    def take_snapshot(self) -> list[Event]:
        """AllBlocksCleared and all that L1 and L2 hold: for routers that missed something.

        It says all that take_events() would have said up to now, which then does not.
        """
        self.tree.take_events()
        return router_events(self.tree.event_snapshot(), self.tree.page_size, self.tree.unit)

    def explain(self, request: str | int) -> RequestRecord:
        """What became of a request that was named in `match` or `prefetch`, or of a prefetch's op
        id; `print` it. HiCacheError if it is not known: the last 1024 are kept, see history.py.
        """
        return self._history.get(request)
