"""Walking down the tree with a prompt, and the match.

prompt      [ p0 p1 | p2 p3 p4 | p5 ..        window: 2 pages
nodes        A        B          C
FULL         device   device     host         FULL ends a match nowhere: C is where the walk ends
SWA          device   -          host         C holds 1 page since the tombstone B: too short
result       node = device_node = A, host_node = root, full_node = C
"""

from __future__ import annotations

from hicache_ext.tree import kinds
from hicache_ext.tree.components.base import VIEW_ALL, VIEW_ANY, VIEW_DEVICE
from hicache_ext.tree.key import common_pages
from hicache_ext.tree.node import Node, path
from hicache_ext.tree.results import MatchResult
from hicache_ext.tree.split import split
from hicache_ext.tree.state import TreeState


def walk(state: TreeState, start: Node, key: bytes) -> tuple[list[Node], int]:
    """The nodes below `start` along `key`, top-down; how many pages of the last one match."""
    nodes: list[Node] = []
    page_bytes = state.page_bytes
    node, offset, matched = start, 0, 0
    while offset < len(key):
        child = node.children.get(key[offset : offset + page_bytes])
        if child is None:
            break
        matched = common_pages(child.key, key, offset, page_bytes)
        nodes.append(child)
        if matched < len(child.key) // page_bytes:
            break
        offset += len(child.key)
        node = child
    return nodes, matched


def whole_pages(state: TreeState, tokens: bytes) -> bytes:
    """The part of `tokens` that fills pages; the rest is never cached."""
    return tokens[: len(tokens) // state.page_bytes * state.page_bytes]


def walk_and_split(state: TreeState, start: Node, key: bytes) -> list[Node]:
    """walk(), with a split where `key` leaves an edge: every node returned matches whole."""
    nodes, matched = walk(state, start, key)
    if nodes and matched < nodes[-1].num_pages:
        suffix_node = nodes[-1]
        nodes[-1] = split(state, suffix_node, matched)
        state.refresh(nodes[-1])
    return nodes


def match_prefix(state: TreeState, tokens: object, namespace: bytes) -> MatchResult:
    key = whole_pages(state, state.unit.key(tokens))
    root = state.root(namespace)
    nodes = walk_and_split(state, root, key)
    gates = [component.gate() for component in state.components]
    best = device_best = root
    for node in nodes:
        views = VIEW_ALL
        for gate in gates:
            views &= gate.step(node)
        if views & VIEW_ANY:
            best = node
        if views & VIEW_DEVICE:
            device_best = node
    host = best
    while not state.can_hang_on_host(host):
        host = host.parent
    deepest = nodes[-1] if nodes else root
    state.tick()
    state.touch(best)
    for used in path(best):
        used.num_hits += 1
    size = state.page_size
    asked = len(key) // state.page_bytes * size, state.token_hash(key), root.id
    state.log.add(kinds.MATCH, *asked, best.id, device_best.id, host.id, deepest.id)
    return MatchResult(
        *(best.id, best.end * size),
        *(device_best.id, device_best.end * size),
        *(host.id, host.end * size),
        *(deepest.id, deepest.end * size),
    )
