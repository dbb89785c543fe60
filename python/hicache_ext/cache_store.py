"""The part of the cache that attaches, detaches and clears L3 while it runs."""

from __future__ import annotations

from hicache_ext.cache_base import CacheBase
from hicache_ext.flow.record import StoreAction, StoreRecord
from hicache_ext.flow.store_switch import StoreClear, StoreSwitch, check_switch
from hicache_ext.storage.protocol import PageStore


class StoreCalls(CacheBase):
    """Attach, detach and clear, on all ranks or on none."""

    def attach_store(self, store: PageStore | None) -> int:
        """Gives an L3 to a cache that has none, on all ranks or on none; returns the op id.

        It is there once `tick` returns the op's StoreRecord: what is in flight ends first, what
        comes later waits. A rank with nothing to attach gives None: the op then fails everywhere.
        """
        return self._switch_store(StoreAction.ATTACH, store)

    def detach_store(self) -> int:
        """Takes L3 away in the same way; once the op is over, its caller may close the store."""
        return self._switch_store(StoreAction.DETACH, None)

    def clear_store(self) -> int:
        """Forgets all pages in L3; the store stays attached, L1 and L2 keep what they have.

        Each rank clears its own store, on an I/O thread and alone. A rank that cannot makes the
        StoreRecord FAILED everywhere; what the others have cleared by then stays cleared.
        """
        self._check_switch(StoreAction.CLEAR)
        record = StoreRecord(self._engine.new_id(), StoreAction.CLEAR)
        return self._engine.add(StoreClear(self._ctx, record))

    def _switch_store(self, action: StoreAction, store: PageStore | None) -> int:
        self._check_switch(action)
        op = StoreSwitch(self._ctx, StoreRecord(self._engine.new_id(), action), store)
        return self._engine.add(op)

    def _check_switch(self, action: StoreAction) -> None:
        self._engine.check_usable()
        check_switch(self._ctx, action)
