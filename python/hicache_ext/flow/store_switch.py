"""Attach, detach and clear of the store: on every rank or on none, when nothing in flight uses it.

SWITCH   alone in the tick: what came before is over, what comes later waits; the ranks vote
DRAIN    a rank could not clear its store: those that still clear theirs come to an end
"""

from __future__ import annotations

from concurrent.futures import Future

from hicache_ext.agreement.schema import AgreedSlot, SlotState
from hicache_ext.errors import StorageError
from hicache_ext.flow.context import FlowContext
from hicache_ext.flow.io import settle, wait
from hicache_ext.flow.op import Op, Phase
from hicache_ext.flow.record import Outcome, StoreAction, StoreRecord
from hicache_ext.storage.protocol import PageStore


class StoreSwitch(Op):
    """One switch on one rank."""

    is_alone = True
    record: StoreRecord

    def __init__(self, ctx: FlowContext, record: StoreRecord, store: PageStore | None) -> None:
        """A rank that attaches None has no store to give; then no rank attaches any."""
        super().__init__(record.op_id, record, Phase.SWITCH)
        self._ctx = ctx
        self._store = store
        ctx.is_switching = True

    def start(self) -> None:
        pass

    def state(self) -> SlotState:
        return self._say(is_ready=True, has_failed=self._has_no_store())

    def apply(self, agreed: AgreedSlot) -> bool:
        if not agreed.any_failed:
            self._ctx.store = self._store
        return self._finish(Outcome.FAILED if agreed.any_failed else Outcome.COMMITTED)

    def cancel(self) -> None:
        self._finish(Outcome.ABORTED)

    def _has_no_store(self) -> bool:
        return self.record.action == StoreAction.ATTACH and self._store is None

    def _say(self, is_ready: bool, has_failed: bool) -> SlotState:
        zeros = (0,) * len(self._ctx.pools.names)
        return SlotState(self.op_id, self.step, is_ready, 0, zeros, zeros, has_failed)

    def _finish(self, outcome: Outcome) -> bool:
        self._ctx.is_switching = False
        self.record.outcome = outcome
        self._store = None
        self._enter(Phase.DONE)
        return True


class StoreClear(StoreSwitch):
    """The store stays; every rank forgets the pages of its own namespaces in it."""

    def __init__(self, ctx: FlowContext, record: StoreRecord) -> None:
        super().__init__(ctx, record, None)
        self._cleared: Future[None] | None = None

    def start(self) -> None:
        store = self._ctx.store
        assert store is not None  # check_switch saw it, and no other switch came between
        self._cleared = self._call(self._ctx.io, store.clear)

    def state(self) -> SlotState:
        is_over = self._cleared is not None and self._cleared.done()
        return self._say(is_over, self.phase == Phase.SWITCH and is_over and self._has_failed())

    def apply(self, agreed: AgreedSlot) -> bool:
        if agreed.any_failed:
            self._enter(Phase.DRAIN)
            return False
        assert self._cleared is not None
        error = settle(self._cleared, None, "clear of the store")[1]
        if error:
            self.record.local_errors.append(error)
        self._cleared = None
        return self._finish(Outcome.FAILED if self.phase == Phase.DRAIN else Outcome.COMMITTED)

    def cancel(self) -> None:
        if self._cleared is not None:
            wait(self._cleared)
        super().cancel()

    def _has_failed(self) -> bool:
        assert self._cleared is not None
        return self._cleared.cancelled() or self._cleared.exception() is not None


def check_switch(ctx: FlowContext, action: StoreAction) -> None:
    """StorageError if there is nothing to switch, LayoutError if the pools cannot have a store."""
    if ctx.is_switching:
        raise StorageError(f"{action.value} while another attach, detach or clear is in flight")
    if (ctx.store is None) == (action != StoreAction.ATTACH):
        there = "no" if ctx.store is None else "a"
        raise StorageError(f"{action.value}: {there} store is attached")
    if action == StoreAction.ATTACH:
        ctx.pools.check_page_view()
