"""NativeTree: RadixTree on the native core (csrc/tree), for trees of our own components.

Same results, errors, node ids, log and digest as the Python tree, call by call: ranks may mix the
two. The Python tree is its specification and its oracle in the tests; each file of csrc/tree has
the name of the file here that it follows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from hicache_ext.keys import page_keys_py, token_hash_py
from hicache_ext.oplog import OpLog
from hicache_ext.tier import Tier
from hicache_ext.tree import kinds
from hicache_ext.tree import native_copies as copies
from hicache_ext.tree.components import Component
from hicache_ext.tree.digest import TokenHash
from hicache_ext.tree.events import TreeEvents
from hicache_ext.tree.key import KeyUnit, PageKeys
from hicache_ext.tree.lock import check_tier
from hicache_ext.tree.native_core import make_core
from hicache_ext.tree.native_read import WHOLE_PATH, NativeReads
from hicache_ext.tree.native_window import NativeWindow
from hicache_ext.tree.results import (
    BackupPlan,
    EvictResult,
    HostPaths,
    InsertHostResult,
    InsertResult,
    LoadBackPlan,
    MatchResult,
    Receipt,
    TransferPlan,
)
from hicache_ext.tree.state import bound_components
from hicache_ext.tree.strategy import Strategy


class NativeTree(NativeReads):
    """Made by RadixTree(..., core="native" | "auto"). Public methods are documented there."""

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
        core: str = "native",
    ) -> None:
        self.log = OpLog()
        self._page_size = page_size
        self._unit = unit
        self._token_hash = token_hash
        self._components = bound_components(components, page_size)
        self._names = tuple(component.name for component in self._components)
        self._core = make_core(
            page_size,
            unit,
            self._components,
            Strategy.of(strategy),
            host_paths,
            page_keys,
            token_hash,
        )
        self._host_paths = host_paths
        # Equal only to themselves: what a caller hands back must be the very object.
        self._receipts: dict[int, Receipt] = {}
        self._plans: dict[int, TransferPlan] = {}
        self._txn: NativeWindow | None = None
        self._events = TreeEvents() if has_events else None
        if self._events is not None:
            self._core.listen(self._events.add_stored, self._events.add_removed)

    def pack(self, tokens: Sequence[int] | bytes | Any) -> bytes:
        return self._unit.pack(tokens)

    # --- match -----------------------------------------------------------------------------------

    def match_prefix(
        self, tokens: Sequence[int] | bytes | Any, namespace: bytes = b""
    ) -> MatchResult:
        is_new, asked, found = self._core.match_prefix(tokens, namespace)
        if is_new:
            self._log_root(namespace, asked[2])
        self.log.add(kinds.MATCH, *asked, found[0], found[2], found[4], found[6])
        return MatchResult(*found)

    # --- locks ------------------------------------------------------------------------------------

    def lock(
        self, node: int, tier: Tier = Tier.DEVICE, num_pages: Mapping[str, int] | None = None
    ) -> Receipt:
        tier = check_tier(tier)
        receipt_id, node, counts = self._core.lock(node, tier, num_pages)
        receipt = Receipt(receipt_id, node, tier, counts)
        self._receipts[receipt_id] = receipt
        self.log.add(kinds.LOCK, node, tier, counts, receipt_id)
        return receipt

    def unlock(self, receipt: Receipt) -> None:
        copies.check_receipt(self, receipt)
        self._core.unlock(receipt.id)
        del self._receipts[receipt.id]
        self.log.add(kinds.UNLOCK, receipt.id)

    def release_window(self, receipt: Receipt, component: str) -> Receipt:
        copies.check_receipt(self, receipt)
        idx, num_pages = self._core.release_window(receipt.id, component)
        kept = tuple(0 if i == idx else n for i, n in enumerate(receipt.num_pages))
        left = Receipt(receipt.id, receipt.node, receipt.tier, kept)
        self._receipts[left.id] = left
        self.log.add(kinds.RELEASE_WINDOW, receipt.id, idx, num_pages)
        return left

    # --- pages in ---------------------------------------------------------------------------------

    def insert(
        self,
        tokens: Sequence[int] | bytes | Any,
        pages: Mapping[str, Sequence[int]],
        namespace: bytes = b"",
        priority: int = 0,
    ) -> InsertResult:
        done = self._core.insert(tokens, pages, namespace, priority)
        new_root, values, num_present, released = done
        if new_root is not None:
            self._log_root(namespace, new_root)
        self.log.add(kinds.INSERT, *values)
        return InsertResult(values[4], values[0], num_present, released)

    def insert_host(
        self,
        anchor: int,
        tokens: Sequence[int] | bytes | Any,
        full_pages: Sequence[int],
        namespace: bytes | None = None,
    ) -> InsertHostResult:
        done = self._core.insert_host(anchor, tokens, full_pages, namespace)
        anchor, num_tokens, key_hash, node, num_present, released = done
        given = anchor, num_tokens, key_hash
        if node is None:
            self.log.add(kinds.DROPPED, *given)
        else:
            self.log.add(kinds.INSERT_HOST, *given, node, num_present, len(released))
        return InsertHostResult(node, num_tokens, num_present * self._page_size, released)

    def window(  # type: ignore[override]
        self, component: str, anchor: int, node: int | None, pages: Sequence[int]
    ) -> NativeWindow:
        return NativeWindow(self, component, anchor, node, pages)

    # --- between the tiers ------------------------------------------------------------------------

    def begin_backup(
        self, node: int, *, last: int | None = None, min_hits: int = 0
    ) -> BackupPlan | None:
        count = WHOLE_PATH if last is None else last
        found = self._core.begin_backup(node, count, min_hits)
        return copies.opened(self, BackupPlan, node, Tier.HOST, found)

    def begin_load_back(self, node: int) -> LoadBackPlan | None:
        return copies.opened(
            self, LoadBackPlan, node, Tier.DEVICE, self._core.begin_load_back(node)
        )

    def commit_backup(
        self, plan: BackupPlan, host_pages: Mapping[str, Sequence[int]]
    ) -> dict[str, list[int]]:
        return copies.commit(self, plan, BackupPlan, host_pages)

    def commit_load_back(
        self, plan: LoadBackPlan, device_pages: Mapping[str, Sequence[int]]
    ) -> dict[str, list[int]]:
        return copies.commit(self, plan, LoadBackPlan, device_pages)

    def abort_backup(self, plan: BackupPlan) -> None:
        copies.abort(self, plan, BackupPlan)

    def abort_load_back(self, plan: LoadBackPlan) -> None:
        copies.abort(self, plan, LoadBackPlan)

    # --- pages out --------------------------------------------------------------------------------

    def evict(self, tier: Tier, num_pages: Mapping[str, int]) -> EvictResult:
        tier = check_tier(tier)
        device, host, num_nodes = self._core.evict(tier, num_pages)
        result = EvictResult(device, host)
        wanted = tuple(num_pages.get(name, 0) for name in self._names)
        self.log.add(kinds.EVICT, wanted, tier, *result.num_freed, num_nodes)
        return result

    def coldest(self, tier: Tier, component: str, num_pages: int) -> list[int]:
        return self._core.coldest(check_tier(tier), component, num_pages)

    def clear(self, tier: Tier) -> EvictResult:
        tier = check_tier(tier)
        device, host, num_nodes = self._core.clear(tier)
        result = EvictResult(device, host)
        if self._events is not None and self._core.is_empty():
            self._events.cleared()
        self.log.add(kinds.CLEAR, tier, *result.num_freed, num_nodes)
        return result

    def drop_duplicates(self, num_pages: Mapping[str, int]) -> EvictResult:
        device, host, _ = self._core.drop_duplicates(num_pages)
        result = EvictResult(device, host)
        wanted = tuple(num_pages.get(name, 0) for name in self._names)
        self.log.add(kinds.DUPLICATES, wanted, result.num_freed[Tier.HOST])
        return result

    def _log_root(self, namespace: bytes, root: int) -> None:
        self.log.add(kinds.ROOT, self._token_hash(namespace), root)
