"""The whole tree as plain data, on whatever core: for tests, which compare it with a model."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain
from typing import Any, NamedTuple

from hicache_ext.tree.node import TIERS, Node, Part
from hicache_ext.tree.state import TreeState


class PartRow(NamedTuple):
    """What one component holds at one node; pages as a node keeps them, None where it has none."""

    device: list[int] | None
    host: list[int] | None
    device_locks: int
    host_locks: int
    used_at: int


class NodeRow(NamedTuple):
    """One node; a root is its own parent and has no key."""

    id: int
    parent: int
    namespace: bytes
    key: bytes
    parts: tuple[PartRow, ...]
    made_at: int
    num_hits: int
    priority: int


class PageRows(NamedTuple):
    """The same page by page, in the order of rows(), with one for each root.

    `facts` has per page: depth, tokens (of a root its namespace), the node that ends there or None,
    made_at, num_hits, priority, and by component device locks, host locks, used_at. `ids` has per
    page and component the page on the device and on the host, None where there is none.
    """

    facts: list[tuple[Any, ...]]
    ids: list[int | None]


def page_rows(state: TreeState) -> PageRows:
    """The native core makes the same (bind_tree_pages.cpp)."""
    found = PageRows([], [])
    todo = [*reversed(state.roots.values())]
    while todo:
        node = todo.pop()
        todo.extend(reversed(node.children.values()))
        num_rows = 1 if node.is_root else node.num_pages
        held = [_spread(state, node, idx, tier) for idx in range(len(node.parts)) for tier in TIERS]
        found.ids.extend(chain.from_iterable(zip(*held, strict=True)))
        own = node.made_at, node.num_hits, node.priority
        parts = tuple(chain.from_iterable((*part.locks, part.used_at) for part in node.parts))
        for i in range(num_rows):
            key = node.key[i * state.page_bytes : (i + 1) * state.page_bytes]
            where = node.end - num_rows + i + 1, node.namespace if node.is_root else key
            end = node.id if i == num_rows - 1 else None
            found.facts.append((*where, end, *own, *parts))
    return found


def _spread(state: TreeState, node: Node, idx: int, tier: int) -> list[int | None]:
    value = node.parts[idx].pages[tier]
    if value is None:
        return [None] * (1 if node.is_root else node.num_pages)
    row = state.components[idx].spread(value, node.num_pages)
    return [None if page < 0 else page for page in row]


def rows(state: TreeState) -> Iterator[NodeRow]:
    """Parents first; roots in the order of their making, children in that of theirs."""
    todo = [*reversed(state.roots.values())]
    while todo:
        node = todo.pop()
        parts = tuple([_part_row(part) for part in node.parts])
        key = node.id, node.parent.id, node.namespace, node.key
        yield NodeRow(*key, parts, node.made_at, node.num_hits, node.priority)
        todo.extend(reversed(node.children.values()))


def _part_row(part: Part) -> PartRow:
    (device, host), (device_locks, host_locks) = part.pages, part.locks
    return PartRow(device, host, device_locks, host_locks, part.used_at)
