"""The whole tree as plain data, on whatever core: for tests, which compare it with a model."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from hicache_ext.tree.node import Part
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
