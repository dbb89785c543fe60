"""The span of a prefetch: what is asked of L3, and how it joins the tree, all or nothing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from hicache_ext.flow.context import FlowContext, ShortWindow
from hicache_ext.flow.record import PrefetchRecord
from hicache_ext.keys import namespace_seed, page_keys
from hicache_ext.tier import Tier
from hicache_ext.tree.key import KeyUnit
from hicache_ext.tree.radix import RadixTree


def window_request(num_window: int, num_span: int, from_root: bool) -> int:
    """Window pages to ask for with a span of `num_span` pages; 0 = ask for none.

    A span shorter than a window cannot supply one, unless it is a whole sequence: that is its own
    window.
    """
    if num_span >= num_window:
        return num_window
    return num_span if from_root else 0


@dataclass
class Span:
    """`len(keys)` pages that follow the node `anchor`."""

    anchor: int
    namespace: bytes
    num_matched_tokens: int  # up to the anchor: what L2 has
    from_root: bool
    tokens: bytes  # packed by the tree, from the anchor on
    num_tokens: int
    keys: list[bytes]  # one per page
    window_pages: dict[str, int]  # per window pool that is asked for

    def need(self, num_pages: int) -> dict[str, int]:
        """Host pages per pool for the first `num_pages` and the window that ends there."""
        windows = {name: min(w, num_pages) for name, w in self.window_pages.items()}
        return {"full": num_pages, **windows}

    def cut(self, num_pages: int) -> None:
        """Shortens the span to the endpoint that was agreed; its window ends there."""
        page_bytes = len(self.tokens) // len(self.keys)
        self.tokens = self.tokens[: num_pages * page_bytes]
        self.num_tokens = self.num_tokens // len(self.keys) * num_pages
        self.keys = self.keys[:num_pages]
        self.window_pages = {n: min(w, num_pages) for n, w in self.window_pages.items()}


def find_span(
    tree: RadixTree, tokens: bytes, namespace: bytes, windows: Mapping[str, int]
) -> Span | None:
    """What L1 and L2 lack of `tokens`, packed by the tree, less one to compute; None if nothing.

    `windows`: pages of the window per pool that has one.
    """
    # N tokens are N - 1 pairs already.
    to_compute = 1 if tree.unit is KeyUnit.TOKEN else 0
    unit_bytes = tree.unit.num_bytes
    num_pages = max(0, len(tokens) // unit_bytes - to_compute) // tree.page_size
    num_usable = num_pages * tree.page_size
    found = tree.match_prefix(tokens[: num_usable * unit_bytes], namespace)
    rest = tokens[found.num_host_tokens * unit_bytes : num_usable * unit_bytes]
    if found.num_tokens >= num_usable or not rest:
        return None
    from_root = found.num_host_tokens == 0
    seed = namespace_seed(namespace) if from_root else tree.keys(found.host_node)[-1]
    keys = page_keys(rest, tree.page_size * tree.unit.num_words, seed)
    asked = {name: window_request(w, len(keys), from_root) for name, w in windows.items()}
    return Span(
        anchor=found.host_node,
        namespace=namespace,
        num_matched_tokens=found.num_host_tokens,
        from_root=from_root,
        tokens=rest,
        num_tokens=num_usable - found.num_host_tokens,
        keys=keys,
        window_pages={name: num_pages for name, num_pages in asked.items() if num_pages},
    )


def commit_span(
    ctx: FlowContext,
    span: Span,
    pages: Mapping[str, list[int]],
    num_full: int,
    num_window: Mapping[str, int],
    record: PrefetchRecord,
) -> bool:
    """Grafts what arrived on every rank; every page given is attached or freed. False = all freed.

    `num_full` and `num_window` are the agreed minima, so each rank grafts the same.
    """
    whole = num_full == len(span.keys) and all(
        num_window[name] >= num_pages for name, num_pages in span.window_pages.items()
    )
    if not whole:
        record.losses.append(_shortfall(span, num_full, num_window))
    keep = num_full > 0 and (whole or ctx.short_window == ShortWindow.KEEP_FULL)
    if not keep:
        ctx.pools.free(Tier.HOST, pages)
        return False
    num_token_bytes = len(span.tokens) // len(span.keys) * num_full
    tokens, full = span.tokens[:num_token_bytes], pages["full"][:num_full]
    grafted = ctx.tree.insert_host(span.anchor, tokens, full, span.namespace)
    released = grafted.released + pages["full"][num_full:]
    ctx.pools.settle(Tier.HOST, {"full": pages["full"]}, {"full": released})
    if grafted.node is None:
        record.losses.append("the anchor lost its host copy")
        ctx.pools.free(Tier.HOST, {n: ids for n, ids in pages.items() if n != "full"})
        return False
    present = grafted.num_present_tokens
    record.num_committed_tokens = num_full * ctx.page_size - present
    for name in span.window_pages:
        released = pages[name]
        if whole:
            with ctx.tree.window(name, span.anchor, grafted.node, pages[name]) as window:
                window.stage()
                result = window.commit()
            released = result.released
            record.num_attached_pages[name] = len(result.attached)
        ctx.pools.settle(Tier.HOST, {name: pages[name]}, {name: released})
    return True


def _shortfall(span: Span, num_full: int, num_window: Mapping[str, int]) -> str:
    got = [f"full {num_full} of {len(span.keys)}"]
    got += [f"{name} {num_window[name]} of {n}" for name, n in span.window_pages.items()]
    return "not every page arrived on every rank: " + ", ".join(got)
