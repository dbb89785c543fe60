"""How what a prefetch has read joins the tree: every page that is given is attached or freed."""

from __future__ import annotations

from collections.abc import Mapping

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
    """Attaches what arrived on every rank, the windows only whole.

    `num_full` and `num_window` are the agreed minima, so each rank grafts the same.
    """
    is_whole = num_full == len(span.keys) and all(
        num_window[name] >= num_pages for name, num_pages in span.window_pages.items()
    )
    if not is_whole and span.windows:
        record.lose(Loss.NO_WINDOW, 0, _shortfall(span, num_full, num_window))
        if ctx.rules.short_window == ShortWindow.STRICT:
            ctx.pools.free(Tier.HOST, pages)
            record.lose(Loss.STRICT, num_full * ctx.page_size)
            return Outcome.DROPPED
    if num_full == 0:
        ctx.pools.free(Tier.HOST, pages)
        return Outcome.DROPPED
    node = _graft_full(ctx, span, pages, num_full, record)
    if node is None:
        ctx.pools.free(Tier.HOST, {n: ids for n, ids in pages.items() if n != "full"})
        record.lose(Loss.ANCHOR, num_full * ctx.page_size)
        return Outcome.DROPPED
    for name in span.windows:
        released = pages[name]
        if is_whole:
            with ctx.tree.window(name, span.anchor, node, pages[name]) as window:
                window.stage()
                result = window.commit()
            released = result.released
            record.num_attached_pages[name] = len(result.attached)
        ctx.pools.settle(Tier.HOST, {name: pages[name]}, {name: released})
    return Outcome.COMMITTED


def _graft_full(
    ctx: FlowContext,
    span: Span,
    pages: Mapping[str, list[int]],
    num_full: int,
    record: PrefetchRecord,
) -> int | None:
    """The node where the FULL pages end; None: the anchor has lost its host copy."""
    ids = pages["full"]
    tokens = span.tokens_of(num_full)
    grafted = ctx.tree.insert_host(span.anchor, tokens, ids[:num_full], span.namespace)
    ctx.pools.settle(Tier.HOST, {"full": ids}, {"full": grafted.released + ids[num_full:]})
    if grafted.node is not None:
        record.num_present_tokens = grafted.num_present_tokens
        record.num_committed_tokens = num_full * ctx.page_size - grafted.num_present_tokens
    return grafted.node


def _shortfall(span: Span, num_full: int, num_window: Mapping[str, int]) -> str:
    got = [f"full {num_full} of {len(span.keys)}"]
    got += [f"{name} {num_window[name]} of {n}" for name, n in span.window_pages.items()]
    return "on every rank arrived " + ", ".join(got)
