"""The prefetches of one rank: which may begin, and those in flight by their ids."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from hicache_ext.flow import kinds
from hicache_ext.flow.context import FlowContext
from hicache_ext.flow.op import Op
from hicache_ext.flow.prefetch import PrefetchOp
from hicache_ext.flow.prefetch_rules import Refusal
from hicache_ext.flow.record import PrefetchRecord, Record
from hicache_ext.flow.span import Request, Rest, find_rest


class Prefetches:
    """What is asked here is asked of every rank at the same step, but for an abort."""

    def __init__(
        self, ctx: FlowContext, new_id: Callable[[], int], add: Callable[[Op], int]
    ) -> None:
        self._ctx = ctx
        self._new_id = new_id
        self._add = add
        self._ops: dict[int, PrefetchOp] = {}
        self.refusal: Refusal | None = None
        """Why the last `begin` returned None."""

    def __getitem__(self, op_id: int) -> PrefetchOp:
        return self._ops[op_id]

    @property
    def num_pages(self) -> int:
        """In flight. A hit counts less than the span that was asked for."""
        return sum(op.num_pages for op in self._ops.values())

    def begin(self, request: Request) -> PrefetchOp | None:
        """A new op, in line, or None; nothing is hashed for one that is refused."""
        ctx = self._ctx
        rest = find_rest(ctx.tree, request) if ctx.can_ask_store else None
        max_pages = self._max_pages
        num_pages = rest.num_pages if rest is not None else 0
        num_pages = num_pages if max_pages is None else min(num_pages, max_pages)
        self.refusal = self._why_not(rest, num_pages)
        if rest is None or self.refusal is not None:
            ctx.tree.log.add(kinds.REFUSED, self.refusal or 0)
            return None
        op = PrefetchOp(ctx, self._new_id(), request, rest, num_pages)
        self._ops[op.op_id] = op
        self._add(op)
        return op

    @property
    def _max_pages(self) -> int | None:
        max_tokens = self._ctx.rules.max_tokens
        return None if max_tokens is None else max_tokens // self._ctx.page_size

    def _why_not(self, rest: Rest | None, num_pages: int) -> Refusal | None:
        """`num_pages` of `rest` would be asked for."""
        if not self._ctx.can_ask_store:
            return Refusal.NO_STORE
        if rest is None:
            return Refusal.NOTHING_LACKS
        num_gain_tokens = (num_pages - rest.num_device_pages) * self._ctx.page_size
        if num_gain_tokens < max(1, self._ctx.rules.threshold_tokens):
            return Refusal.BELOW_THRESHOLD
        if self._max_pages is not None and self.num_pages + num_pages > self._max_pages:
            return Refusal.RATE_LIMITED
        return None

    def poll(self, op_id: int) -> bool:
        """Whether its request should go on."""
        op = self._ops.get(op_id)
        goes_on = op is None or op.poll()
        self._ctx.tree.log.add(kinds.POLL, op_id, goes_on)
        return goes_on

    def abort(self, op_id: int) -> bool:
        """False if it is over."""
        op = self._ops.get(op_id)
        if op is not None:
            op.abort()
        return op is not None

    def forget(self, records: Iterable[Record]) -> None:
        """Those that have ended."""
        for record in records:
            if isinstance(record, PrefetchRecord):
                self._ops.pop(record.op_id, None)
