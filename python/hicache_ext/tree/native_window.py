"""The window commit of a native tree: the same life as WindowTxn of window.py."""

from __future__ import annotations

from collections.abc import Sequence
from types import TracebackType
from typing import TYPE_CHECKING

from hicache_ext.tree import kinds
from hicache_ext.tree.results import WindowResult

if TYPE_CHECKING:
    from hicache_ext.tree.native import NativeTree


class NativeWindow:
    """WindowTxn of a native tree: the same life, see window.py."""

    def __init__(
        self,
        tree: NativeTree,
        component: str,
        anchor: int,
        node: int | None,
        pages: Sequence[int],
    ) -> None:
        self._txn = tree._core.window(component, anchor, node, pages)
        self._tree = tree
        self._asked = (anchor, anchor if node is None else node)
        self._component_idx = tree._names.index(component)
        self.result: WindowResult | None = None

    def __repr__(self) -> str:
        return repr(self._txn)

    def __enter__(self) -> NativeWindow:
        self._txn.open()
        self._tree._txn = self
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self.result is None:
            self._txn.rollback()
            self._tree._txn = None
            self.result = WindowResult([], self._txn.pages)

    def stage(self) -> None:
        self._txn.stage()

    def commit(self) -> WindowResult:
        self._txn.commit()
        self._tree._txn = None
        self.result = WindowResult(self._txn.attached, self._txn.released)
        asked = len(self._txn.pages), self._component_idx, *self._asked
        self._tree.log.add(kinds.WINDOW, *asked, len(self.result.attached))
        return self.result
