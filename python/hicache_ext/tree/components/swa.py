"""SWA: sliding-window attention. Only the last `window` tokens before an end point are needed.

Pages outside of the window may be missing ("tombstones"); a match may end where an unbroken run of
at least one window lies behind it:

    page      0  1  2  3  4  5  6  7      window: 3 pages
    SWA       x  x  -  x  x  x  x  -      x: pages, -: tombstone
    may end   y  y  n  n  n  y  y  n      0, 1: a short sequence from the root is its own window
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from hicache_ext.errors import LayoutError
from hicache_ext.tree.components.base import VIEW_ANY, VIEW_DEVICE, Component

if TYPE_CHECKING:
    from hicache_ext.tree.node import Node


class _SwaGate:
    """Counts the run of pages since the last tombstone, once per view."""

    def __init__(self, idx: int, window_pages: int) -> None:
        self._idx = idx
        self._window_pages = window_pages
        # The root counts as a whole window, so that nothing but a tombstone can make a run too
        # short.
        self._run_any = self._run_device = window_pages

    def step(self, node: Node) -> int:
        device, host = node.parts[self._idx].pages
        num_pages = node.end - node.parent.end
        self._run_device = self._run_device + num_pages if device is not None else 0
        present = device is not None or host is not None
        self._run_any = self._run_any + num_pages if present else 0
        views = VIEW_ANY if self._run_any >= self._window_pages else 0
        return views | (VIEW_DEVICE if self._run_device >= self._window_pages else 0)


class Swa(Component):
    """Pages of the last ceil(window_tokens / page_size) pages before an end point."""

    name = "swa"
    rank = 10

    def __init__(self, window_tokens: int) -> None:
        super().__init__()
        if window_tokens <= 0:
            raise LayoutError(
                f"window_tokens={window_tokens}: a sliding window has at least 1 token"
            )
        self.window_tokens = window_tokens
        self.window_pages = 0

    def bind(self, idx: int, page_size: int) -> None:
        super().bind(idx, page_size)
        self.window_pages = -(-self.window_tokens // page_size)

    def gate(self) -> _SwaGate:
        return _SwaGate(self.idx, self.window_pages)

    def need(self, end: int) -> int:
        return self.window_pages
