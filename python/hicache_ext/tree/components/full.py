"""FULL: attention over the whole prefix. The base of the tree: a node is there because FULL pages
are.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from hicache_ext.tree.components.base import VIEW_ALL, VIEW_ANY, Component

if TYPE_CHECKING:
    from hicache_ext.tree.node import Node


class _FullGate:
    """Satisfied as long as every node so far has its pages."""

    def __init__(self, idx: int) -> None:
        self._idx = idx
        self._views = VIEW_ALL

    def step(self, node: Node) -> int:
        device, host = node.parts[self._idx].pages
        if device is None:
            self._views &= VIEW_ANY if host is not None else 0
        return self._views


class Full(Component):
    """Every token of the prefix is needed, on the device or on the host."""

    name = "full"
    is_base = True
    rank = 20

    def gate(self) -> _FullGate:
        return _FullGate(self.idx)

    def need(self, end: int) -> int:
        return end
