"""Attach and detach of the store: on every rank or on none, when nothing in flight uses it.

SWITCH   alone in the tick: what came before is over, what comes later waits; the ranks vote
"""

from __future__ import annotations

from hicache_ext.agreement.schema import AgreedSlot, SlotState
from hicache_ext.errors import StorageError
from hicache_ext.flow.context import FlowContext
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
        zeros = (0,) * len(self._ctx.pools.names)
        failed = self.record.action == StoreAction.ATTACH and self._store is None
        return SlotState(self.op_id, self.step, True, 0, zeros, zeros, failed)

    def apply(self, agreed: AgreedSlot) -> bool:
        if not agreed.any_failed:
            self._ctx.store = self._store
        self._finish(Outcome.FAILED if agreed.any_failed else Outcome.COMMITTED)
        return True

    def _finish(self, outcome: Outcome) -> None:
        self._ctx.is_switching = False
        self.record.outcome = outcome
        self._store = None
        self._enter(Phase.DONE)

    def cancel(self) -> None:
        self._finish(Outcome.ABORTED)


def check_switch(ctx: FlowContext, action: StoreAction) -> None:
    """StorageError if there is nothing to switch, LayoutError if the pools cannot have a store."""
    if ctx.is_switching:
        raise StorageError(f"{action.value} while another attach or detach is in flight")
    if (ctx.store is None) == (action == StoreAction.DETACH):
        there = "no" if ctx.store is None else "a"
        raise StorageError(f"{action.value}: {there} store is attached")
    if action == StoreAction.ATTACH:
        ctx.pools.check_page_view()
