"""Prefetch, L3 to L2: find an endpoint that every rank can restore, read it, graft it.

QUERY    each rank asks its store and proposes the largest endpoint that it can restore
ASK      if those differ: the largest endpoint that all ranks have, out of their whole sets
RESERVE  host pages for the FULL hit and for the window, on every rank or on none
READ     FULL pages in order, then the window; the ranks agree on the fewest that arrived
STOP     the deadline has passed on every rank: as READ, but the reads end at their next batch
commit   FULL pages into the tree; the window only if every page of it arrived everywhere
DRAIN    after an abort, or a deadline without a hit: waits for I/O on any rank, then frees

A rank that is past the deadline says that it is ready and late. So the ranks stop when each of them
has done its part or is late, and a clock that runs fast decides nothing alone. A store call that
hangs is given up in the same way; it keeps its pages until it returns.
"""

from __future__ import annotations

from collections.abc import Mapping

from hicache_ext.agreement.schema import AgreedSlot, SlotState
from hicache_ext.flow.context import FlowContext
from hicache_ext.flow.endpoint_search import EndpointSearch
from hicache_ext.flow.graft import graft
from hicache_ext.flow.hang import HUNG, LATE
from hicache_ext.flow.op import Op, Phase
from hicache_ext.flow.prefetch_io import PrefetchIo
from hicache_ext.flow.prefetch_rules import PrefetchPolicy
from hicache_ext.flow.read import find_endpoints, read_span
from hicache_ext.flow.record import Loss, Outcome, PrefetchRecord
from hicache_ext.flow.reserve import Reservation, Verdict
from hicache_ext.flow.span import Request, Rest, Span, find_rest, make_span
from hicache_ext.pool import PageState
from hicache_ext.tier import Tier
from hicache_ext.tree.results import Receipt


class PrefetchOp(Op):
    """One prefetch on one rank."""

    record: PrefetchRecord

    def __init__(
        self, ctx: FlowContext, op_id: int, request: Request, rest: Rest, max_pages: int
    ) -> None:
        super().__init__(op_id, PrefetchRecord(op_id, 0, 0), Phase.QUERY)
        self._ctx = ctx
        self._request = request
        self._is_aborted = False
        self._deadline_s: float | None = None  # by this rank's clock; None: nobody waits
        self._io = PrefetchIo(self, ctx, self.record.local_errors)
        self._search: EndpointSearch | None = None  # once the query is back
        self._reservation: Reservation | None = None
        self._drained: tuple[Outcome, Loss] = Outcome.ABORTED, Loss.ABORTED
        self._receipt: Receipt | None = None
        self._span: Span | None = self._take(rest, max_pages)
        self.num_pages = len(self._span.keys)  # what it counts for in the rate limit

    def _take(self, rest: Rest, max_pages: int) -> Span:
        ctx, record = self._ctx, self.record
        span = make_span(ctx.tree, rest, self._request.namespace, ctx.windows, max_pages)
        # The anchor must not be evicted from under us, in whatever phase we are.
        self._receipt = ctx.tree.lock(span.anchor, Tier.HOST)
        record.num_matched_tokens = rest.num_matched_tokens
        record.num_device_tokens = rest.num_device_pages * ctx.page_size
        record.num_span_tokens = span.num_tokens
        return span

    # -- calls from outside --------------------------------------------------------------------

    def start(self) -> None:
        if self._span is None and self._deadline_s is None:  # rested after a miss
            rest = find_rest(self._ctx.tree, self._request)
            if rest is not None:
                self._span = self._take(rest, self.num_pages)
        if self._span is None or self._ctx.store is None:
            self._search = EndpointSearch([])  # it is here by now, or nobody waits for it
            return
        self.record.num_queries += 1
        self._io.ask(self._ask_store)

    def poll(self) -> bool:
        """The request could go on: True if it should, False if it is worth its while to wait.

        Called on every rank at the same step. The first call sets the deadline.
        """
        if self._deadline_s is None:
            patience_s = self._ctx.rules.patience_s(self.num_pages * self._ctx.page_size)
            self._deadline_s = self._ctx.alarm.after(self, patience_s)
        if self.phase in (Phase.QUERY, Phase.ASK):
            has_missed = self.record.num_queries > 1 or self._span is None
            return has_missed or self._ctx.rules.policy == PrefetchPolicy.BEST_EFFORT
        return self.phase in (Phase.DRAIN, Phase.DONE)

    def abort(self) -> None:
        """The request is gone. Takes effect at the next tick, on all ranks."""
        self._is_aborted = True
        self._io.stop.cancel()
        self.tell()

    # -- what this rank publishes ------------------------------------------------------------

    def state(self) -> SlotState:
        zeros = (0,) * len(self._ctx.pools.names)
        ready, num_pages, short, hits = True, 0, zeros, zeros
        if self.phase == Phase.QUERY:
            ready, num_pages = self._query_is_back(), self._proposal
        elif self.phase == Phase.ASK:
            ready, num_pages = not self.asks, self._proposal
        elif self.phase == Phase.RESERVE and self._reservation is not None:
            short = self._reservation.short()
        elif self.phase in (Phase.READ, Phase.STOP):
            arrived = self._io.arrived()
            ready = arrived is not None
            if arrived is not None:
                num_pages = arrived.num_full
                hits = tuple(arrived.num_window.get(n, 0) for n in self._ctx.pools.names)
        elif self.phase == Phase.DRAIN:
            ready = self._io.is_over()
        if not ready and self.phase != Phase.ASK and (why := self._why_go_on()):
            ready, short = True, (why, *zeros[1:])
        failed = self._is_aborted and self.phase != Phase.DRAIN
        return SlotState(self.op_id, self.step, ready, num_pages, short, hits, failed)

    def _why_go_on(self) -> int:
        """LATE, HUNG, or 0: this rank waits for its I/O."""
        if self._io.hangs():
            return HUNG
        is_late = self._deadline_s is not None and self._ctx.alarm.clock() >= self._deadline_s
        return LATE if is_late and self.phase in (Phase.QUERY, Phase.READ) else 0

    def _ask_store(self) -> list[int]:
        """Runs on an I/O thread."""
        assert self._ctx.store is not None and self._span is not None
        return find_endpoints(self._ctx.store, self._span, self._ctx.pools, self._io.stop)

    def _query_is_back(self) -> bool:
        """Takes the answer when it is there."""
        endpoints = self._io.endpoints()
        if self._search is None and endpoints is not None:
            self._search = EndpointSearch(endpoints)
        return self._search is not None

    @property
    def _proposal(self) -> int:
        return self._search.proposal if self._search is not None else 0

    def ask(self, num_lanes: int) -> bytes:
        assert self._search is not None
        self.asks = False
        self.tell()
        return self._search.flags(num_lanes)

    # -- what all ranks agreed ---------------------------------------------------------------

    def apply(self, agreed: AgreedSlot) -> bool:
        if agreed.any_failed:
            return self._drain(Outcome.ABORTED, Loss.ABORTED)
        if self.phase == Phase.QUERY:
            return self._apply_query(agreed)
        if self.phase == Phase.ASK:
            return self._apply_ask(agreed)
        if self.phase == Phase.RESERVE:
            return self._apply_reserve(agreed)
        if self.phase in (Phase.READ, Phase.STOP):
            return self._apply_read(agreed)
        return self._finish(*self._drained)

    def _apply_query(self, agreed: AgreedSlot) -> bool:
        if any(agreed.short):
            return self._drain(Outcome.EXPIRED, Loss.DEADLINE)
        self.record.num_hit_tokens = agreed.max_pages * self._ctx.page_size
        if agreed.min_pages == agreed.max_pages:
            return self._take_endpoint(agreed.min_pages)
        return self._look_below(agreed.min_pages)

    def _apply_ask(self, agreed: AgreedSlot) -> bool:
        assert self._search is not None
        if agreed.endpoint_idx >= 0:
            return self._take_endpoint(self._search.endpoint(agreed.endpoint_idx))
        return self._look_below(agreed.min_pages)

    def _look_below(self, upper: int) -> bool:
        """No endpoint above `upper`, which is of one rank at least, is common to all."""
        if upper == 0:
            return self._take_endpoint(0)
        assert self._search is not None
        self._search.look_below(upper)
        self.asks = True
        self._enter(Phase.ASK)
        return False

    def _take_endpoint(self, num_pages: int) -> bool:
        """The largest that every rank can restore; 0: none."""
        if num_pages == 0:
            return self._miss()
        record, span, page_size = self.record, self._span, self._ctx.page_size
        assert span is not None
        record.num_agreed_tokens = num_pages * page_size
        record.lose(Loss.NOT_STORED, record.num_span_tokens - record.num_hit_tokens)
        record.lose(Loss.NOT_COMMON, record.num_hit_tokens - record.num_agreed_tokens)
        num_gain_tokens = record.num_agreed_tokens - record.num_device_tokens
        if num_gain_tokens < self._ctx.rules.threshold_tokens:
            return self._finish(Outcome.BELOW_THRESHOLD, Loss.BELOW_THRESHOLD)
        span.cut(num_pages)
        self.num_pages = num_pages
        record.num_window_pages = span.window_pages
        self._reservation = Reservation(
            self._ctx.pools, Tier.HOST, span.need(num_pages), self._ctx.evict_for_reserve
        )
        self._enter(Phase.RESERVE)
        return False

    def _miss(self) -> bool:
        """Whoever computes these pages may be about to store them: asks again after a while."""
        record, rules = self.record, self._ctx.rules
        nobody_waits = self._deadline_s is None and self._io.has_asked
        if not nobody_waits or record.num_queries >= rules.max_queries:
            record.lose(Loss.NOT_COMMON, record.num_hit_tokens)
            return self._finish(Outcome.MISS, Loss.NOT_STORED)
        self._unlock()
        self._io.forget()
        self._span = self._search = None
        self.rest_ticks = rules.retry_ticks
        self._enter(Phase.QUERY)
        return True

    def _apply_reserve(self, agreed: AgreedSlot) -> bool:
        ctx, reservation, span = self._ctx, self._reservation, self._span
        assert reservation is not None and span is not None
        verdict = reservation.apply(agreed.short)
        if verdict == Verdict.REFUSED:
            return self._finish(Outcome.CAPACITY, Loss.CAPACITY, f"short by {agreed.short} pages")
        if verdict == Verdict.AGAIN:
            self._enter(Phase.RESERVE)  # votes once more
            return False
        held, store, io = reservation.pages, ctx.store, self._io
        assert store is not None
        ctx.pools.move(Tier.HOST, held, PageState.IO)
        # Writes only into pages that this op owns until DRAIN or commit.
        io.read(lambda: read_span(store, span, ctx.pools, held, io.stop, io.moved))
        self._enter(Phase.READ)
        return False

    def _apply_read(self, agreed: AgreedSlot) -> bool:
        ctx, record = self._ctx, self.record
        if max(agreed.short) >= HUNG:
            return self._drain(Outcome.EXPIRED, Loss.DEADLINE)
        if self.phase == Phase.READ and any(agreed.short):
            self._io.stop.cancel()
            self._enter(Phase.STOP)
            return False
        arrived = self._io.arrived()
        assert arrived is not None and self._span is not None
        record.num_read_bytes = arrived.num_bytes
        record.num_loaded_tokens = agreed.min_pages * ctx.page_size
        hits = dict(zip(ctx.pools.names, agreed.hits, strict=True))
        why = Loss.NOT_READ if self.phase == Phase.READ else Loss.DEADLINE
        pages = self._take_pages()
        return self._finish(graft(ctx, self._span, pages, agreed.min_pages, hits, record), why)

    # -- the end -----------------------------------------------------------------------------

    def _drain(self, outcome: Outcome, why: Loss) -> bool:
        """Nothing is freed while the I/O of this rank may still touch it."""
        self._drained = outcome, why
        self._io.stop.cancel()
        self._enter(Phase.DRAIN)
        return False

    def _take_pages(self) -> Mapping[str, list[int]]:
        """The reserved pages, out of I/O and ours to hand on."""
        if self._reservation is None:
            return {}
        pages, self._reservation.pages = self._reservation.pages, {}
        if self._io.reads:
            self._ctx.pools.move(Tier.HOST, pages, PageState.RESERVED)
        return pages

    def _unlock(self) -> None:
        if self._receipt is not None:
            self._ctx.tree.unlock(self._receipt)
        self._receipt = None

    def _finish(self, outcome: Outcome, why: Loss, detail: str = "") -> bool:
        if not self._io.is_over():
            self._io.lend(self._reservation)
        self._ctx.pools.free(Tier.HOST, self._take_pages())
        self._unlock()
        self._io.forget()
        self.record.outcome = outcome
        self.record.lose_rest(why, detail)
        self._enter(Phase.DONE)
        return True

    def cancel(self) -> None:
        self._io.wait()  # the I/O thread may still write into our pages
        self._finish(Outcome.ABORTED, Loss.ABORTED)
