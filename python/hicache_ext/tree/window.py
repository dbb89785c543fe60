"""The window commit: pages read for the end of a path become the tree's, all of them or none.

    with tree.window("swa", anchor, node, pages) as txn:
        txn.stage()
        txn.commit()

The pages are right-aligned at the end of `node` and never reach above `anchor`:

    anchor ──[ p0 p1 p2 p3 ]── A ──[ p4 p5 ]── node      pages s3 s4 s5: A is split behind p2,
                                                          its tail takes s3, node takes s4 s5

A node that has host pages of the component keeps them; what is meant for it is released, and so is
what lies above the anchor. Every page ends attached once or released once.

Leaving the block without a commit rolls back from an undo log that was allocated when the block was
entered, one step per node of the window; it holds the old objects, so undoing is assignments only
and cannot fail. A split is undone as well, down to the next free node id: a rank that staged and
rolled back has the tree, the digest and the later ids of one that never opened the transaction. So
it does not matter which ranks got how far. Until the end no other call may change the tree.
"""

from __future__ import annotations

from collections.abc import Sequence
from types import TracebackType

from hicache_ext.errors import TreeError
from hicache_ext.tier import Tier
from hicache_ext.tree import kinds
from hicache_ext.tree.components.base import Component
from hicache_ext.tree.node import Node, suffix
from hicache_ext.tree.pages import HOLE, checked_ids
from hicache_ext.tree.results import WindowResult
from hicache_ext.tree.split import SplitUndo, split, unsplit
from hicache_ext.tree.state import TreeState


class _Step:
    """One node that takes pages: what is put there, and what undoing needs. Made when the window
    opens.
    """

    __slots__ = ("node", "num_prefix_pages", "saved", "value")

    def __init__(self, node: Node, num_prefix_pages: int, value: list[int]) -> None:
        self.node = node
        self.num_prefix_pages = num_prefix_pages  # > 0: the node is split behind these
        self.value = value
        self.saved = SplitUndo(node)


class WindowTxn:
    """One window commit; use as a context manager. `result` is set when it ends, either way."""

    def __init__(
        self,
        state: TreeState,
        component: str,
        anchor_id: int,
        node_id: int | None,
        pages: Sequence[int],
    ) -> None:
        self._state = state
        self._component = _checked_component(state, component)
        self._pages = checked_ids(pages, f"window, {component}", None, lowest=0)
        self._anchor_id = anchor_id
        self._node_id = (
            anchor_id if node_id is None else node_id
        )  # no node: nothing below the anchor
        self._steps: list[_Step] = []
        self._num_done = 0
        self._attached: list[int] = []
        self._released: list[int] = []
        self._is_staged = False
        self.result: WindowResult | None = None

    def __repr__(self) -> str:
        name, num_pages = self._component.name, len(self._pages)
        return (
            f"WindowTxn({name}, {num_pages} pages, anchor {self._anchor_id}, node {self._node_id})"
        )

    def __enter__(self) -> WindowTxn:
        """Check, plan every step and allocate what undoing it needs. TreeError leaves the pages
        yours.
        """
        if self.result is not None:
            raise TreeError(f"{self} is closed")
        self._state.guard()
        self._state.check_unowned(self._component, Tier.HOST, self._pages)
        anchor, node = self._state.get(self._anchor_id), self._state.get(self._node_id)
        if not _is_above(anchor, node):
            raise TreeError(f"node {node.id} is not at or below anchor {anchor.id}")
        self._plan(anchor, node)
        self._state.txn = self
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self.result is None:
            self._rollback()

    def stage(self) -> None:
        """Put the pages onto the path; nobody else sees them before the commit."""
        self._check_open()
        if self._is_staged:
            raise TreeError(f"{self} is staged already")
        self._is_staged = True
        for step in self._steps:
            if step.num_prefix_pages:
                split(self._state, step.node, step.num_prefix_pages)
            self._num_done += 1  # from here on the step is undone by a rollback
            self._state.attach(step.node, self._component, Tier.HOST, step.value)

    def commit(self) -> WindowResult:
        """Make the pages the tree's; stages them first if that was not done."""
        self._check_open()
        if not self._is_staged:
            self.stage()
        state = self._state
        state.txn = None
        self.result = WindowResult(self._attached, self._released)
        state.tick()
        if self._steps:
            state.touch(state.get(self._node_id))
        for step in self._steps:
            state.refresh(step.node)
            state.refresh(step.node.parent)
        asked = len(self._pages), self._component.idx, self._anchor_id, self._node_id
        state.log.add(kinds.WINDOW, *asked, len(self._attached))
        return self.result

    def _plan(self, anchor: Node, node: Node) -> None:
        begin = node.end - len(self._pages)  # where the buffer starts; may lie above the anchor
        first = max(begin, anchor.end)
        if not node.is_root and node.parts[self._state.base.idx].pages[Tier.HOST] is None:
            first = node.end  # a window without base pages under it would be of no use: I4
        self._released = self._pages[: first - begin]
        for above in reversed(suffix(node, node.end - first)):
            fill_start = max(above.start, first)
            run = self._pages[fill_start - begin : above.end - begin]
            # The node's last piece, cut as the component wants it, takes the run or what it can of
            # it.
            ids = [HOLE] * (fill_start - above.start) + run
            cut = max(self._component.cuts(ids), default=0)
            value = self._component.value(ids[cut:])
            if value is None or not self._state.can_attach(above, self._component, Tier.HOST):
                self._released.extend(run)
                continue
            self._steps.append(_Step(above, cut, value))
            kept = set(value)
            self._attached.extend(page for page in run if page in kept)
            self._released.extend(page for page in run if page not in kept)

    def _rollback(self) -> None:
        for step in reversed(self._steps[: self._num_done]):
            self._state.detach(step.node, self._component, Tier.HOST)
            if step.num_prefix_pages:
                unsplit(self._state, step.node, step.saved)
        self._state.txn = None
        self.result = WindowResult([], self._pages)

    def _check_open(self) -> None:
        if self._state.txn is not self:
            raise TreeError(f"{self} is not open")


def _checked_component(state: TreeState, name: str) -> Component:
    component = state.component(name)
    if component.is_base:
        raise TreeError(f"{name!r} is the base: its host pages come by insert_host")
    return component


def _is_above(anchor: Node, node: Node) -> bool:
    while node is not anchor and not node.is_root:
        node = node.parent
    return node is anchor
