"""Prefetch, L3 to L2: find an endpoint that every rank can restore, read it, graft it.

QUERY    each rank asks its store and proposes the largest endpoint that it can restore
ASK      if those differ: the largest endpoint that all ranks have, out of their whole sets
RESERVE  host pages for the FULL hit and for the window, on every rank or on none
READ     FULL pages in order, then the window; the ranks agree on the fewest that arrived
commit   FULL pages into the tree; the window only if every page of it arrived everywhere
DRAIN    after an abort: the pages are freed when no rank's I/O touches them any more
"""

from __future__ import annotations

import threading
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass

from hicache_ext.agreement.schema import AgreedSlot, SlotState
from hicache_ext.flow.context import FlowContext
from hicache_ext.flow.io import settle, wait
from hicache_ext.flow.op import Op, Phase
from hicache_ext.flow.read import read_leading
from hicache_ext.flow.record import Outcome, PrefetchRecord
from hicache_ext.flow.reserve import Reservation, Verdict
from hicache_ext.flow.span import Span, commit_span
from hicache_ext.pool import PageState
from hicache_ext.storage.endpoints import restorable_endpoints
from hicache_ext.tier import Tier


@dataclass
class Arrived:
    """Leading pages that a rank has read; a page after a gap is worth nothing."""

    num_full: int
    num_window: dict[str, int]
    num_bytes: int


class PrefetchOp(Op):
    """One prefetch on one rank."""

    record: PrefetchRecord

    def __init__(self, ctx: FlowContext, op_id: int, span: Span, record: PrefetchRecord) -> None:
        super().__init__(op_id, record, Phase.QUERY)
        self._ctx = ctx
        self._span = span
        self._stop = threading.Event()
        self._endpoints: list[int] | None = None  # ascending; unknown until the query is back
        self._proposal = 0
        self._upper = 0  # while asking: no larger endpoint is common
        self._query: Future[list[int]] | None = None
        self._reservation: Reservation | None = None
        self._read: Future[Arrived] | None = None
        self._result: Arrived | None = None  # of the read
        # The anchor must not be evicted from under us, in whatever phase we are.
        self._anchor_receipt = ctx.tree.lock(span.anchor, Tier.HOST)

    # -- what this rank publishes ------------------------------------------------------------

    def start(self) -> None:
        self._query = self._call(self._ctx.io, self._ask_store)

    def abort(self) -> None:
        """The request is gone. Takes effect at the next tick, on all ranks."""
        self._stop.set()
        self.tell()

    def state(self) -> SlotState:
        zeros = (0,) * len(self._ctx.pools.names)
        ready, num_pages, short, hits = True, 0, zeros, zeros
        if self.phase == Phase.QUERY:
            ready = self._query_is_back()
            num_pages = self._proposal
        elif self.phase == Phase.ASK:
            ready = not self.asks
            num_pages = self._proposal
        elif self.phase == Phase.RESERVE and self._reservation is not None:
            short = self._reservation.short()
        elif self.phase == Phase.READ and self._read is not None:
            ready = self._read.done()
            if ready:
                arrived = self._arrived()
                num_pages = arrived.num_full
                hits = tuple(arrived.num_window.get(n, 0) for n in self._ctx.pools.names)
        elif self.phase == Phase.DRAIN:
            ready = all(f is None or f.done() for f in (self._query, self._read))
        failed = self._stop.is_set() and self.phase != Phase.DRAIN
        return SlotState(self.op_id, self.step, ready, num_pages, short, hits, failed)

    def _ask_store(self) -> list[int]:
        """The endpoints of the span that this rank's store can restore. Runs on an I/O thread."""
        span, store, pools = self._span, self._ctx.store, self._ctx.pools
        assert store is not None
        full = store.exists("full", span.keys)[: len(span.keys)]
        windows: dict[str, tuple[Sequence[bool], int]] = {
            name: (store.exists(name, span.keys), num_pages)
            for name, num_pages in span.window_pages.items()
        }
        endpoints = restorable_endpoints(full, windows, from_root=span.from_root)
        # What the host could never hold is no hit.
        return [e for e in endpoints if pools.fits(Tier.HOST, span.need(e))]

    def ask(self, num_lanes: int) -> bytes:
        """The lanes stand for the endpoints `upper`, `upper` - 1, ...; proposes the next lower."""
        endpoints, low = self._endpoints or [], self._upper - num_lanes
        begin, end = bisect_right(endpoints, low), bisect_right(endpoints, self._upper)
        flags = bytearray(num_lanes)
        for endpoint in endpoints[begin:end]:
            flags[self._upper - endpoint] = 1
        self._proposal = endpoints[begin - 1] if begin else 0
        self.asks = False
        self.tell()
        return bytes(flags)

    def _query_is_back(self) -> bool:
        """Takes the answer when it is there; the first proposal is the largest endpoint."""
        if self._endpoints is None and self._query is not None and self._query.done():
            endpoints, error = settle(self._query, [], "prefetch query")
            if error:
                self.record.local_errors.append(error)
            self._endpoints = endpoints
            self._proposal = max(endpoints, default=0)
        return self._endpoints is not None

    # -- what all ranks agreed ---------------------------------------------------------------

    def apply(self, agreed: AgreedSlot) -> bool:
        if agreed.any_failed:
            self._stop.set()
            self._enter(Phase.DRAIN)
            return False
        if self.phase == Phase.QUERY:
            return self._apply_query(agreed)
        if self.phase == Phase.ASK:
            return self._apply_ask(agreed)
        if self.phase == Phase.RESERVE:
            return self._apply_reserve(agreed)
        if self.phase == Phase.READ:
            return self._apply_read(agreed)
        return self._finish(Outcome.ABORTED, "aborted")

    def _apply_query(self, agreed: AgreedSlot) -> bool:
        if agreed.min_pages == agreed.max_pages:
            return self._take_endpoint(agreed.min_pages)
        return self._look_below(agreed.min_pages)

    def _apply_ask(self, agreed: AgreedSlot) -> bool:
        if agreed.endpoint_idx >= 0:
            return self._take_endpoint(self._upper - agreed.endpoint_idx)
        return self._look_below(agreed.min_pages)

    def _look_below(self, upper: int) -> bool:
        """No endpoint above `upper`, which is of one rank at least, is common to all.

        Each time the ranks look at as many endpoints as a tick has lanes for.
        """
        if upper == 0:
            return self._take_endpoint(0)
        self._upper = upper
        self.asks = True
        self._enter(Phase.ASK)
        return False

    def _take_endpoint(self, num_hit: int) -> bool:
        """The largest that every rank can restore; 0: none."""
        self.record.num_hit_tokens = num_hit * self._ctx.page_size
        if num_hit == 0:
            return self._finish(Outcome.MISS, "not in the store of every rank")
        if self.record.num_hit_tokens < self._ctx.prefetch_threshold_tokens:
            return self._finish(Outcome.BELOW_THRESHOLD, f"hit of {num_hit} pages")
        self._span.cut(num_hit)
        need = self._span.need(num_hit)
        self.record.num_window_pages = dict(self._span.window_pages)
        self._reservation = Reservation(
            self._ctx.pools, Tier.HOST, need, self._ctx.evict_for_reserve
        )
        self._enter(Phase.RESERVE)
        return False

    def _apply_reserve(self, agreed: AgreedSlot) -> bool:
        assert self._reservation is not None
        verdict = self._reservation.apply(agreed.short)
        if verdict == Verdict.REFUSED:
            return self._finish(Outcome.CAPACITY, f"host pages short by {agreed.short}")
        if verdict == Verdict.GRANTED:
            held = self._reservation.pages
            self._ctx.pools.move(Tier.HOST, held, PageState.IO)
            self._read = self._call(self._ctx.io, lambda: self._read_pages(held))
            self._enter(Phase.READ)
        else:
            self._enter(Phase.RESERVE)  # votes once more
        return False

    def _read_pages(self, held: Mapping[str, list[int]]) -> Arrived:
        """Runs on an I/O thread; writes only into pages that this op owns until DRAIN or commit."""
        ctx, span = self._ctx, self._span
        assert ctx.store is not None
        pages = {
            name: [ctx.pools.get(Tier.HOST, name).page_view(i) for i in ids]
            for name, ids in held.items()
        }
        num_full = read_leading(ctx.store, "full", span.keys, pages["full"], self._stop)
        num_window = {}
        # A window without its FULL pages cannot be used: do not read it.
        if num_full == len(span.keys):
            for name, num_pages in span.window_pages.items():
                keys = span.keys[len(span.keys) - num_pages :]
                num_window[name] = read_leading(ctx.store, name, keys, pages[name], self._stop)
        arrived = {"full": num_full, **num_window}
        num_bytes = sum(
            n * ctx.pools.get(Tier.HOST, name).spec.page_bytes for name, n in arrived.items()
        )
        return Arrived(num_full, num_window, num_bytes)

    def _arrived(self) -> Arrived:
        """What this rank has read; the read is over."""
        if self._result is None:
            assert self._read is not None
            arrived, error = settle(self._read, Arrived(0, {}, 0), "prefetch read")
            if error:
                self.record.local_errors.append(error)
            self._result = arrived
        return self._result

    def _apply_read(self, agreed: AgreedSlot) -> bool:
        ctx = self._ctx
        assert self._reservation is not None
        self.record.num_read_bytes = self._arrived().num_bytes
        self.record.num_loaded_tokens = agreed.min_pages * ctx.page_size
        pages = self._take_pages()
        hits = dict(zip(ctx.pools.names, agreed.hits, strict=True))
        committed = commit_span(ctx, self._span, pages, agreed.min_pages, hits, self.record)
        outcome = Outcome.COMMITTED if committed else Outcome.DROPPED
        return self._finish(outcome, None)

    # -- the end -----------------------------------------------------------------------------

    def _take_pages(self) -> Mapping[str, list[int]]:
        """The reserved pages, out of I/O and ours to hand on."""
        if self._reservation is None:
            return {}
        pages, self._reservation.pages = self._reservation.pages, {}
        if self._read is not None:
            self._ctx.pools.move(Tier.HOST, pages, PageState.RESERVED)
        return pages

    def _finish(self, outcome: Outcome, loss: str | None) -> bool:
        self._ctx.pools.free(Tier.HOST, self._take_pages())
        self._ctx.tree.unlock(self._anchor_receipt)
        self._query = self._read = None  # an error's traceback holds on to the pools' buffers
        self.record.outcome = outcome
        if loss:
            self.record.losses.append(loss)
        self._enter(Phase.DONE)
        return True

    def cancel(self) -> None:
        self._stop.set()
        for future in (self._query, self._read):
            if future is not None:
                wait(future)  # the I/O thread may still write into our pages
        self._finish(Outcome.ABORTED, "closed")
