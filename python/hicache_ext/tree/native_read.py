"""What a native tree tells without changing: the reading half of NativeTree."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hicache_ext.errors import TreeError
from hicache_ext.tier import Tier
from hicache_ext.tree.components import Component
from hicache_ext.tree.digest import TokenHash
from hicache_ext.tree.events import PageEvent, TreeEvents, snapshot
from hicache_ext.tree.integrity import raise_violations
from hicache_ext.tree.key import KeyUnit
from hicache_ext.tree.lock import check_tier
from hicache_ext.tree.native_state import NativeState
from hicache_ext.tree.radix import RadixTree
from hicache_ext.tree.results import HostPaths, PageCounts, Receipt, TransferPlan
from hicache_ext.tree.rows import NodeRow, PageRows, rows
from hicache_ext.tree.show import show

if TYPE_CHECKING:
    from hicache_ext import _C
    from hicache_ext.tree.native_window import NativeWindow

WHOLE_PATH = (1 << 63) - 1


class NativeReads(RadixTree):
    """A tree whose data is a native core's."""

    _core: _C.TreeCore
    _page_size: int
    _unit: KeyUnit
    _components: tuple[Component, ...]
    _names: tuple[str, ...]
    _token_hash: TokenHash
    _host_paths: HostPaths
    _receipts: dict[int, Receipt]
    _plans: dict[int, TransferPlan]
    _txn: NativeWindow | None
    _events: TreeEvents | None

    def path_pages(
        self, node: int, component: str, tier: Tier, last: int | None = None
    ) -> list[int]:
        if last is not None and last < 0:
            self.num_tokens(node)
            raise TreeError(f"last={last} pages")
        count = WHOLE_PATH if last is None else last
        return self._core.path_pages(node, component, check_tier(tier), count)

    def keys(self, node: int) -> list[bytes]:
        return self._core.keys(node)

    def num_tokens(self, node: int) -> int:
        return self._core.num_tokens(node)

    def num_hits(self, node: int) -> int:
        return self._core.num_hits(node)

    def namespace(self, node: int) -> bytes:
        return self._core.namespace(node)

    # --- events -----------------------------------------------------------------------------------

    def take_events(self) -> list[PageEvent]:
        if self._events is None:
            return []
        roots = list(self._state.roots.values()) if self._events.is_lost else []
        return self._events.take(roots, 0)

    def event_snapshot(self) -> list[PageEvent]:
        state = self._state
        for node_id in state.nodes:
            self._core.keys(node_id)
        return snapshot(list(self._state.roots.values()), 0)

    # --- inspection -------------------------------------------------------------------------------

    @property
    def page_size(self) -> int:
        return self._page_size

    @property
    def unit(self) -> KeyUnit:
        return self._unit

    @property
    def components(self) -> tuple[Component, ...]:
        return self._components

    @property
    def digest(self) -> int:
        return self._core.digest()

    def owned_pages(self, tier: Tier, component: str) -> list[int]:
        if component in self._names:
            tier = check_tier(tier)
        return self._core.owned_pages(component, tier)

    def page_counts(self, tier: Tier, component: str) -> PageCounts:
        if component in self._names:
            tier = check_tier(tier)
        return PageCounts(*self._core.page_counts(component, tier))

    def rows(self) -> list[NodeRow]:
        return list(rows(self._state))  # type: ignore[arg-type]

    def page_rows(self) -> PageRows:
        return PageRows(*self._core.page_rows())

    def check_integrity(self) -> None:
        found = self._core.violations()
        receipts, plans = self._core.dump_open()
        for mine, its in ((self._receipts, receipts), (self._plans, plans)):
            if differ := mine.keys() ^ {fields[0] for fields in its}:
                found.append(f"tickets {sorted(differ)} are open here or in the core alone")
        raise_violations(found)

    def show(self) -> str:
        return show(self._state)  # type: ignore[arg-type]

    @property
    def _state(self) -> NativeState:  # type: ignore[override]
        """A copy of all that there is, in the form of the Python tree; O(tree)."""
        return NativeState(self)
