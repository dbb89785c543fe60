"""MAMBA: recurrent layers. A sequence can go on only where a state was kept: a page per checkpoint.

    page      0  1  2  3  4  5        x: a state after this page's last token
    MAMBA     -  x  -  -  -  x        two nodes, [0 1] and [2 3 4 5]: a state lies at the right end
    may end   n  y  n  n  n  y

A node has one state or none, so an insert cuts behind each state that it hands over. In rows of
one id per page a state stands at its node's last page, and -1 elsewhere.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from hicache_ext.tree.components.base import VIEW_ALL, VIEW_ANY, Component

if TYPE_CHECKING:
    from hicache_ext.tree.node import Node


class _MambaGate:
    """Satisfied at a node that has a state, whatever lies before it."""

    def __init__(self, idx: int) -> None:
        self._idx = idx

    def step(self, node: Node) -> int:
        device, host = node.parts[self._idx].pages
        if device is not None:
            return VIEW_ALL
        return VIEW_ANY if host is not None else 0


class Mamba(Component):
    """One state at the end point itself."""

    name = "mamba"
    rank = 5

    def gate(self) -> _MambaGate:
        return _MambaGate(self.idx)

    def need(self, end: int) -> int:
        return 1

    def cuts(self, ids: Sequence[int]) -> list[int]:
        return [i for i in range(1, len(ids)) if ids[i - 1] >= 0]

    def value(self, ids: Sequence[int]) -> list[int] | None:
        return [ids[-1]] if len(ids) and ids[-1] >= 0 else None

    def divide(
        self, value: list[int], num_prefix_pages: int
    ) -> tuple[list[int] | None, list[int] | None]:
        return None, value

    def spread(self, value: list[int], num_pages: int) -> list[int]:
        return [-1] * (num_pages - 1) + value

    def violations(self, node: Node) -> list[str]:
        values = node.parts[self.idx].pages
        return [
            f"{self.name}: {len(value)} states, a node has one or none (I11)"
            for value in values
            if value is not None and len(value) != 1
        ]
