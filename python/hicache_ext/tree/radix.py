"""RadixTree: which page of which prompt lies where. It decides and owns page ids; it moves no data.

One per rank. All ranks make the same calls in the same order and so have the same tree, which
`digest` proves; page ids themselves are not part of it. Ids that are handed in belong to the tree
until a call hands them out again. Every error is a TreeError with the values, raised before
anything has changed. Calls that change the tree are logged, see oplog.py.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from hicache_ext.keys import page_keys_py, token_hash_py
from hicache_ext.oplog import OpLog
from hicache_ext.tier import Tier
from hicache_ext.tree import duplicates as _duplicates
from hicache_ext.tree import evict as _evict
from hicache_ext.tree import insert as _insert
from hicache_ext.tree import insert_host as _insert_host
from hicache_ext.tree import lock as _lock
from hicache_ext.tree import match as _match
from hicache_ext.tree import read as _read
from hicache_ext.tree import transfer as _transfer
from hicache_ext.tree.components.base import Component
from hicache_ext.tree.digest import TokenHash
from hicache_ext.tree.events import PageEvent, TreeEvents, snapshot_of, take
from hicache_ext.tree.integrity import check_integrity
from hicache_ext.tree.key import KeyUnit, PageKeys
from hicache_ext.tree.native_core import OfSomeCore
from hicache_ext.tree.results import (
    BackupPlan,
    EvictResult,
    HostPaths,
    InsertHostResult,
    InsertResult,
    LoadBackPlan,
    MatchResult,
    PageCounts,
    Receipt,
)
from hicache_ext.tree.rows import NodeRow, PageRows, page_rows, rows
from hicache_ext.tree.show import show
from hicache_ext.tree.state import TreeState
from hicache_ext.tree.strategy import Strategy
from hicache_ext.tree.window import WindowTxn


class RadixTree(OfSomeCore):
    """A tree over token pages, one policy per cache kind: RadixTree(16, (Full(), Swa(1024)))."""

    def __init__(
        self,
        page_size: int,
        components: Sequence[Component],
        *,
        page_keys: PageKeys = page_keys_py,
        token_hash: TokenHash = token_hash_py,
        unit: KeyUnit = KeyUnit.TOKEN,
        strategy: str = Strategy.LRU,
        host_paths: HostPaths = HostPaths.WHOLE,
        has_events: bool = False,
        core: str = "python",
    ) -> None:
        """`page_size` in tokens; the first component is the base; LayoutError for what cannot be.
        `tokens` of calls are ints, or bytes that pack() made. `log` has the calls that change the
        tree, and what others log around them. `core`: "python", "native" (csrc/tree) or "auto",
        native for our own components: they differ in speed alone.
        """
        self.log = OpLog()
        self._state = TreeState(
            page_size,
            components,
            page_keys,
            token_hash,
            self.log,
            unit=unit,
            strategy=Strategy.of(strategy),
            host_paths=host_paths,
            events=TreeEvents() if has_events else None,
        )

    def pack(self, tokens: Sequence[int] | bytes | Any) -> bytes:
        """Token ids, or u32-LE bytes of them, as the tree's keys: see KeyUnit."""
        return self._state.unit.pack(tokens)

    # --- what is there ----------------------------------------------------------------------------

    def match_prefix(
        self, tokens: Sequence[int] | bytes | Any, namespace: bytes = b""
    ) -> MatchResult:
        """The longest known prefix of `tokens`, cut to whole pages. Splits a node where the match
        ends inside of it, and marks what it found as used."""
        self._state.guard()
        return _match.match_prefix(self._state, tokens, namespace)

    def path_pages(
        self, node: int, component: str, tier: Tier, last: int | None = None
    ) -> list[int]:
        """Page ids from the root to the end of `node`, or the `last`; -1 where there is none."""
        return _read.path_pages(self._state, node, component, tier, last)

    def keys(self, node: int) -> list[bytes]:
        """Page keys from the root to the end of `node`; computed on first use and kept."""
        return _read.keys(self._state, node)

    def num_tokens(self, node: int) -> int:
        """Tokens from the root to the end of `node`."""
        return self._state.get(node).end * self._state.page_size

    def num_hits(self, node: int) -> int:
        """Matches that went through `node`, and 1 if an insert has made it or has used it."""
        return self._state.get(node).num_hits

    def namespace(self, node: int) -> bytes:
        return self._state.get(node).namespace

    # --- locks ------------------------------------------------------------------------------------

    def lock(
        self,
        node: int,
        tier: Tier = Tier.DEVICE,
        num_pages: Mapping[str, int] | None = None,
    ) -> Receipt:
        """Keep what a sequence that ends at `node` needs on `tier`, and the nodes themselves, until
        unlock(). `num_pages` says otherwise how many pages back from the end to keep, by component,
        rounded up to whole nodes (0 where it is silent); of the base it is always the path."""
        self._state.guard()
        return _lock.lock(self._state, node, tier, num_pages)

    def unlock(self, receipt: Receipt) -> None:
        """Release a lock; a receipt is good once."""
        self._state.guard()
        _lock.unlock(self._state, receipt)

    def release_window(self, receipt: Receipt, component: str) -> Receipt:
        """Release what a lock keeps of one component that is not the base, e.g. once decode is a
        window past the prefix; returns the receipt of the rest, and the old one is no longer good.
        """
        self._state.guard()
        return _lock.release_window(self._state, receipt, component)

    # --- pages in ---------------------------------------------------------------------------------

    def insert(
        self,
        tokens: Sequence[int] | bytes | Any,
        pages: Mapping[str, Sequence[int]],
        namespace: bytes = b"",
        priority: int = 0,
    ) -> InsertResult:
        """Hand over device pages, one id per whole page and component; -1: none (not the base).

        The tree keeps what it lacks; the result's `released` are ids that it has no use for. Ids
        that the tree holds at the same place may be handed in again and are neither. A path keeps
        the highest `priority` that was given for it, which the strategy "priority" goes by.
        """
        self._state.guard()
        return _insert.insert(self._state, tokens, pages, namespace, priority)

    def insert_host(
        self,
        anchor: int,
        tokens: Sequence[int] | bytes | Any,
        full_pages: Sequence[int],
        namespace: bytes | None = None,
    ) -> InsertHostResult:
        """Hand over host pages of the base for the span `tokens` below `anchor`. Dropped, with node
        None, if no host pages may lie there. `namespace`: of the span; TreeError if the anchor is
        in another."""
        self._state.guard()
        return _insert_host.insert_host(self._state, anchor, tokens, full_pages, namespace)

    def window(
        self, component: str, anchor: int, node: int | None, pages: Sequence[int]
    ) -> WindowTxn:
        """A transaction that puts host `pages` at the end of the path to `node`, all or none."""
        self._state.guard()
        return WindowTxn(self._state, component, anchor, node, pages)

    # --- between the tiers ------------------------------------------------------------------------

    def begin_backup(
        self, node: int, *, last: int | None = None, min_hits: int = 0
    ) -> BackupPlan | None:
        """Pin and list what the path to `node` has on the device only; None if there is nothing.

        Only nodes with `min_hits`, and only the `last` pages, rounded up to whole nodes: a
        TreeError unless the host may have them, see HostPaths.
        """
        self._state.guard()
        return _transfer.begin_backup(self._state, node, last, min_hits)

    def commit_backup(
        self, plan: BackupPlan, host_pages: Mapping[str, Sequence[int]]
    ) -> dict[str, list[int]]:
        """Hand over the filled host pages, in span order; returns those that were not needed."""
        self._state.guard()
        return _transfer.commit(self._state, plan, BackupPlan, host_pages)

    def abort_backup(self, plan: BackupPlan) -> None:
        """Give up a backup: unpin what it pinned. The caller keeps its host pages."""
        self._state.guard()
        _transfer.abort(self._state, plan, BackupPlan)

    def begin_load_back(self, node: int) -> LoadBackPlan | None:
        """Pin and list what `node` lacks on the device; None if nothing, TreeError if lost."""
        self._state.guard()
        return _transfer.begin_load_back(self._state, node)

    def commit_load_back(
        self, plan: LoadBackPlan, device_pages: Mapping[str, Sequence[int]]
    ) -> dict[str, list[int]]:
        """Hand over the filled device pages, in span order; returns those that were not needed."""
        self._state.guard()
        return _transfer.commit(self._state, plan, LoadBackPlan, device_pages)

    def abort_load_back(self, plan: LoadBackPlan) -> None:
        """Give up a load-back: unpin what it pinned. The caller keeps its device pages."""
        self._state.guard()
        _transfer.abort(self._state, plan, LoadBackPlan)

    # --- pages out --------------------------------------------------------------------------------

    def evict(self, tier: Tier, num_pages: Mapping[str, int]) -> EvictResult:
        """Give up at least so many pages per component on `tier`, fewer if the rest is locked."""
        self._state.guard()
        return _evict.evict(self._state, tier, num_pages)

    def coldest(self, tier: Tier, component: str, num_pages: int) -> list[int]:
        """The nodes that an eviction of so many pages of `component` would take now, in order; not
        those that become candidates only when these are gone. Changes nothing.
        """
        self._state.guard()
        return _evict.coldest(self._state, tier, component, num_pages)

    def drop_duplicates(self, num_pages: Mapping[str, int]) -> EvictResult:
        """Give up so many host pages per component that the device has too, the newest first."""
        self._state.guard()
        return _duplicates.drop_duplicates(self._state, num_pages)

    def clear(self, tier: Tier) -> EvictResult:
        """Give up all that is not locked on `tier`."""
        self._state.guard()
        return _evict.clear(self._state, tier)

    # --- events -----------------------------------------------------------------------------------

    def take_events(self) -> list[PageEvent]:
        """What became of base pages since the last call, oldest first; [] without `has_events`."""
        return take(self._state)

    def event_snapshot(self) -> list[PageEvent]:
        """CLEARED and what the tree holds now, for one who listens from now on. Takes nothing."""
        return snapshot_of(self._state)

    # --- inspection -------------------------------------------------------------------------------

    @property
    def page_size(self) -> int:
        return self._state.page_size

    @property
    def unit(self) -> KeyUnit:
        """What a position of a key is: a token, or a pair of tokens."""
        return self._state.unit

    @property
    def components(self) -> tuple[Component, ...]:
        return self._state.components

    @property
    def digest(self) -> int:
        """62 bits of the tree's state: see digest.py. O(nodes that changed since it was asked)."""
        return self._state.digest.value(self._state)

    def owned_pages(self, tier: Tier, component: str) -> list[int]:
        """All page ids of `component` on `tier`, ascending."""
        owned = self._state.owned[self._state.component(component).idx]
        return sorted(owned[_lock.check_tier(tier)])

    def page_counts(self, tier: Tier, component: str) -> PageCounts:
        """How many pages of `component` on `tier` are locked, and how many are not."""
        return _read.page_counts(self._state, tier, component)

    def rows(self) -> list[NodeRow]:
        """Every node as plain data, parents first. O(tree)."""
        return list(rows(self._state))

    def page_rows(self) -> PageRows:
        """Every page as plain data, parents first. O(tree)."""
        return page_rows(self._state)

    def check_integrity(self) -> None:
        """Verify every invariant; TreeError with all violations. O(tree)."""
        check_integrity(self._state)

    def show(self) -> str:
        return show(self._state)
