"""Splitting a node. The new node is the prefix; the old one keeps its id and becomes the suffix.

    before   parent ──[ p0 p1 p2 p3 ]── X
    after    parent ──[ p0 p1 ]── new ──[ p2 p3 ]── X          split(X, 2)

Whoever holds X's id and a number of pages back from its end (a receipt, a plan) still means the
same pages.
"""

from __future__ import annotations

from hicache_ext.errors import TreeError
from hicache_ext.keys import KEY_BYTES
from hicache_ext.tree.node import TIERS, Node
from hicache_ext.tree.state import TreeState


def split(state: TreeState, node: Node, num_prefix_pages: int) -> Node:
    """Split `node` behind its first pages; returns the prefix. No page changes its owner."""
    if not 0 < num_prefix_pages < node.num_pages:
        raise TreeError(
            f"node {node.id} has {node.num_pages} pages: cannot split at {num_prefix_pages}"
        )
    cut = num_prefix_pages * state.page_bytes
    prefix = state.add_child(node.parent, node.key[:cut])
    node.key = node.key[cut:]
    node.key_hash = None
    node.parent = prefix
    state.digest.changed(node)
    prefix.children[node.key[: state.page_bytes]] = node
    prefix.made_at, prefix.num_hits, prefix.priority = node.made_at, node.num_hits, node.priority
    if node.hashes is not None:
        at = num_prefix_pages * KEY_BYTES
        prefix.hashes, node.hashes = node.hashes[:at], node.hashes[at:]
    for component in state.components:
        mine, its = node.parts[component.idx], prefix.parts[component.idx]
        its.used_at = mine.used_at
        its.locks[:] = mine.locks
        for tier in TIERS:
            value = mine.pages[tier]
            if value is not None:
                its.pages[tier], mine.pages[tier] = component.divide(value, num_prefix_pages)
    for tier in TIERS:
        prefix.children_on[tier] = int(node.parts[state.base.idx].pages[tier] is not None)
    return prefix


def unsplit(state: TreeState, node: Node, saved: SplitUndo) -> None:
    """Take the last split of `node` back: assigns what `saved` kept, so it cannot fail."""
    prefix = node.parent
    prefix.alive = False
    state.digest.removed(prefix)
    state.digest.changed(node)
    del state.nodes[prefix.id]
    state.next_id = prefix.id
    node.parent = prefix.parent
    node.key = saved.key
    node.key_hash = None
    node.hashes = saved.hashes
    node.parent.children[node.key[: state.page_bytes]] = node
    for part, pages in zip(node.parts, saved.pages, strict=True):
        part.pages[:] = pages


class SplitUndo:
    """What a node was before it was split."""

    __slots__ = ("hashes", "key", "pages")

    def __init__(self, node: Node) -> None:
        self.key = node.key
        self.hashes = node.hashes
        self.pages = [list(part.pages) for part in node.parts]
