"""How what a prefetch has read joins the tree: every page that is given is attached or freed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from hicache_ext.flow.context import FlowContext
from hicache_ext.flow.prefetch_rules import ShortWindow
from hicache_ext.flow.record import Loss, Outcome, PrefetchRecord
from hicache_ext.flow.span import Span
from hicache_ext.tier import Tier


def graft(
    ctx: FlowContext,
    span: Span,
    pages: Mapping[str, list[int]],
    num_full: int,
    num_window: Mapping[str, int],
    record: PrefetchRecord,
) -> Outcome:
    """Attaches what arrived on every rank, windows only with an endpoint that they make whole.

    `num_full` and `num_window` are the agreed minima, so each rank grafts the same.
    """
    end = span.restorable(num_full, num_window)
    if end < len(span.keys) and span.windows:
        record.lose(Loss.NO_WINDOW, 0, _shortfall(span, num_full, num_window))
        if ctx.rules.short_window == ShortWindow.STRICT:
            record.lose(Loss.STRICT, (num_full - end) * ctx.page_size)
            num_full = end
    if num_full == 0:
        ctx.pools.free(Tier.HOST, pages)
        return Outcome.DROPPED
    full, first = pages["full"], end or num_full  # up to the windows, if there are any
    node = _graft_full(ctx, span, span.anchor, full, 0, first, record)
    if node is None:
        ctx.pools.free(Tier.HOST, {**pages, "full": full[first:]})
        record.lose(Loss.ANCHOR, num_full * ctx.page_size)
        return Outcome.DROPPED
    for name in span.windows:
        ids = pages[name][: span.need(end)[name]]
        released = list(pages[name][len(ids) :])
        if ids:
            with ctx.tree.window(name, span.anchor, node, ids) as window:
                window.stage()
                result = window.commit()
            released += result.released
            record.num_attached_pages[name] = len(result.attached)
        ctx.pools.settle(Tier.HOST, {name: pages[name]}, {name: released})
    if first < num_full:
        _graft_full(ctx, span, node, full, first, num_full, record)
    ctx.pools.free(Tier.HOST, {"full": full[num_full:]})
    return Outcome.COMMITTED


def _graft_full(
    ctx: FlowContext,
    span: Span,
    anchor: int,
    pages: Sequence[int],
    begin: int,
    end: int,
    record: PrefetchRecord,
) -> int | None:
    """The node where the FULL pages [begin, end) of the span end; None: nothing of them is in the
    tree, as the anchor has lost its host copy.
    """
    ids = list(pages[begin:end])
    tokens = span.tokens_of(end)[len(span.tokens_of(begin)) :]
    grafted = ctx.tree.insert_host(anchor, tokens, ids, span.namespace)
    ctx.pools.settle(Tier.HOST, {"full": ids}, {"full": grafted.released})
    if grafted.node is not None:
        record.num_present_tokens += grafted.num_present_tokens
        record.num_committed_tokens += len(ids) * ctx.page_size - grafted.num_present_tokens
    return grafted.node


def _shortfall(span: Span, num_full: int, num_window: Mapping[str, int]) -> str:
    got = [f"full {num_full} of {len(span.keys)}"]
    got += [f"{name} {num_window[name]} of {n}" for name, n in span.window_pages.items()]
    return "on every rank arrived " + ", ".join(got)
