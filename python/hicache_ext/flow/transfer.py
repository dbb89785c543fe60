"""What backup and load-back share: pages on a tier, a copy from the other, the tree takes them.

RESERVE  pages of the target tier on every rank or on none
COPY     under way; a copy that fails on one rank fails on all
"""

from __future__ import annotations

from collections.abc import Mapping

from hicache_ext.agreement.schema import AgreedSlot, SlotState
from hicache_ext.flow.context import FlowContext
from hicache_ext.flow.copies import Copies
from hicache_ext.flow.op import Op, Phase
from hicache_ext.flow.pools import Pages
from hicache_ext.flow.record import Outcome, TransferRecord
from hicache_ext.flow.reserve import Reservation, Verdict
from hicache_ext.pool import PageState
from hicache_ext.tier import Tier


class TransferOp(Op):
    """One transfer on one rank. The subclass holds the tree's plan, whose pages are pinned."""

    record: TransferRecord

    def __init__(
        self, ctx: FlowContext, record: TransferRecord, tier: Tier, sources: Pages
    ) -> None:
        super().__init__(record.op_id, record, Phase.RESERVE)
        self._ctx = ctx
        self._tier = tier
        self._sources = sources
        self._reservation: Reservation | None = None
        self._copies: Copies | None = None
        self._error: Exception | None = None

    # -- for the subclass --------------------------------------------------------------------

    def _commit(self, pages: Pages) -> Mapping[str, list[int]]:
        """Hands the filled pages to the tree; returns those that it does not need."""
        raise NotImplementedError

    def _abandon(self) -> None:
        """Unpins the plan; nothing was attached."""
        raise NotImplementedError

    def _make_room(self, tier: Tier, num_pages: Mapping[str, int]) -> None:
        """When the pools lack so many pages."""
        self._ctx.evict_for_reserve(tier, num_pages)

    def _start_copy(self, pages: Pages) -> Copies:
        return self._ctx.pools.copy(self._tier, self._sources, pages)

    def _after_commit(self) -> bool:
        """Goes on to another phase (False) or ends here (True)."""
        return self._finish(Outcome.COMMITTED)

    # -- the op ------------------------------------------------------------------------------

    def start(self) -> None:
        self._reservation = Reservation(
            self._ctx.pools, self._tier, self.record.num_pages, self._make_room
        )

    def state(self) -> SlotState:
        zeros = (0,) * len(self._ctx.pools.names)
        ready, short = True, zeros
        if self.phase == Phase.RESERVE and self._reservation is not None:
            short = self._reservation.short()
        elif self.phase in (Phase.COPY, Phase.DRAIN):
            ready = self._copy_stopped()
            if not ready:
                self.tell()  # tickets are polled
        failed = self._error is not None and self.phase == Phase.COPY
        return SlotState(self.op_id, self.step, ready, 0, short, zeros, failed)

    def apply(self, agreed: AgreedSlot) -> bool:
        if agreed.any_failed:
            self._enter(Phase.DRAIN)
            return False
        if self.phase == Phase.RESERVE:
            return self._apply_reserve(agreed)
        if self.phase == Phase.COPY:
            return self._apply_copy()
        self._give_back()
        return self._finish(Outcome.FAILED)

    def _apply_reserve(self, agreed: AgreedSlot) -> bool:
        assert self._reservation is not None
        verdict = self._reservation.apply(agreed.short)
        if verdict == Verdict.REFUSED:
            self._abandon()
            return self._finish(Outcome.CAPACITY)
        if verdict == Verdict.AGAIN:
            self._enter(Phase.RESERVE)
        elif verdict == Verdict.GRANTED:
            pages = self._reservation.pages
            self._ctx.pools.move(self._tier, pages, PageState.IO)
            self._enter(Phase.COPY)
            try:
                self._copies = self._start_copy(pages)
            except Exception as error:  # the other ranks hear of it in the next tick
                self._error = error
        return False

    def _copy_stopped(self) -> bool:
        """True when no copy touches our pages any more; keeps what went wrong."""
        try:
            if self._copies is not None and not self._copies.done():
                return False
            if self._copies is not None:
                self.record.num_copied_bytes = self._copies.result()
        except Exception as error:  # as above: it must not take this rank out of the tick
            self._error = error
        return True

    def _apply_copy(self) -> bool:
        pages = self._take_pages()
        self._ctx.pools.settle(self._tier, pages, self._commit(pages))
        return self._after_commit()

    # -- the end -----------------------------------------------------------------------------

    def _take_pages(self) -> Mapping[str, list[int]]:
        """The reserved pages, no longer under a copy and ours to hand on."""
        if self._reservation is None:
            return {}
        pages, self._reservation.pages = self._reservation.pages, {}
        if self.phase in (Phase.COPY, Phase.DRAIN):
            self._ctx.pools.move(self._tier, pages, PageState.RESERVED)
        return pages

    def _give_back(self) -> None:
        self._ctx.pools.free(self._tier, self._take_pages())
        self._abandon()

    def _finish(self, outcome: Outcome) -> bool:
        self.record.outcome = outcome
        if self._error is not None:
            self.record.local_errors.append(f"copy failed: {self._error!r}")
        self._enter(Phase.DONE)
        self._copies = self._error = None  # tickets and tracebacks hold on to the pools' buffers
        return True

    def cancel(self) -> None:
        """Shutting down: waits for a copy under way, then gives everything back."""
        if self._copies is not None:
            self._copies.wait()
        if self.phase in (Phase.RESERVE, Phase.COPY, Phase.DRAIN):
            self._give_back()
        self._finish(Outcome.ABORTED)
