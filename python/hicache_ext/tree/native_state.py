"""A copy of the native core's tree in the form of the Python tree's state: for show() and for
tests, which let the Python tree's own check of the invariants judge the core and the core's check.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import cached_property
from typing import TYPE_CHECKING

from hicache_ext.errors import TreeError
from hicache_ext.tree.digest import StateDigest
from hicache_ext.tree.node import TIERS, Node, Part
from hicache_ext.tree.queue import EvictQueue
from hicache_ext.tree.results import Pin, Receipt, TransferPlan

if TYPE_CHECKING:
    from hicache_ext.tree.native_read import NativeReads
    from hicache_ext.tree.state import TreeState


class _KeptDigest(StateDigest):
    """The core's own sum, beside what it must be."""

    def __init__(self, tree: NativeReads) -> None:
        super().__init__(tree._token_hash)
        self._core = tree._core
        self.num_hashed_nodes = self._core.num_hashed_nodes

    def value(self, state: TreeState) -> int:
        return self._core.digest()


class NativeState:
    """What TreeState has; changing it changes nothing of the tree."""

    def __init__(self, tree: NativeReads) -> None:
        core = tree._core
        self._core = core
        self.page_size = tree.page_size
        self.unit = tree.unit
        self.page_bytes = tree.page_size * tree.unit.num_bytes
        self.components = tree.components
        self.base = tree.components[0]
        self.log = tree.log
        self.events = tree._events
        self.clock = core.clock
        self.next_id = core.next_id
        self.next_ticket = core.next_ticket
        self.receipts, self.plans = self._open()
        self.host_paths = tree._host_paths
        self.txn = tree._txn
        self.digest = _KeptDigest(tree)

    def get(self, node_id: int) -> Node:
        if node_id not in self.nodes:
            raise TreeError(f"node {node_id} does not exist (next id {self.next_id})")
        return self.nodes[node_id]

    @cached_property
    def nodes(self) -> dict[int, Node]:
        return self._dumped[1]

    @cached_property
    def roots(self) -> dict[bytes, Node]:
        return self._dumped[0]

    @cached_property
    def _dumped(self) -> tuple[dict[bytes, Node], dict[int, Node]]:
        named, rows = self._core.dump()
        names = {root: namespace for namespace, root in named}
        nodes: dict[int, Node] = {}
        for node_id, parent_id, key, end, made, hits, priority, hashes, children_on, parts in rows:
            parent = None if parent_id == node_id else nodes[parent_id]
            node = Node(node_id, parent, key, end, [_part(*fields) for fields in parts], made)
            node.num_hits, node.priority = hits, priority
            node.hashes = hashes
            node.children_on = list(children_on)
            if parent is None:
                node.namespace = names[node_id]
            else:
                parent.children[key[: self.page_bytes]] = node
            nodes[node_id] = node
        return {namespace: nodes[root] for namespace, root in named}, nodes

    def _open(self) -> tuple[dict[int, Receipt], dict[int, TransferPlan]]:
        """Receipts and plans as the core has them; one that is no longer there is none of them."""
        receipts, plans = self._core.dump_open()
        pins = {pin for plan in plans for pin in plan[3]}
        by_id: dict[int, Receipt] = {}
        for receipt_id, node, tier, counts in receipts:
            kind = Pin if receipt_id in pins else Receipt
            by_id[receipt_id] = kind(receipt_id, node, TIERS[tier], counts)
        found = {}
        for plan_id, node, target, ids in plans:
            known = (by_id.get(pin) for pin in ids)
            own = [
                pin if isinstance(pin, Pin) else Pin(gone, node, TIERS[target], ())
                for gone, pin in zip(ids, known, strict=True)
            ]
            found[plan_id] = TransferPlan(plan_id, node, TIERS[target], (), (), tuple(own))
        return by_id, found

    @cached_property
    def owned(self) -> list[list[set[int]]]:
        """The ledger: page ids by component and tier."""
        names = [component.name for component in self.components]
        return [[set(self._core.owned_pages(name, tier)) for tier in TIERS] for name in names]

    @property
    def num_protected(self) -> list[list[int]]:
        """Pages where a component is locked, by component and tier."""
        names = [component.name for component in self.components]
        return [[self._core.page_counts(name, tier)[1] for tier in TIERS] for name in names]

    @cached_property
    def queues(self) -> list[list[EvictQueue]]:
        return [[self._queue(idx, tier) for tier in TIERS] for idx in range(len(self.components))]

    def _queue(self, idx: int, tier: int) -> EvictQueue:
        queue = EvictQueue(self.components[idx], TIERS[tier], self.components, lambda node: 0)
        ids, num_entries, queue._num_live = self._core.dump_queue(idx, tier)
        nowhere = (False, 0, 0, 0, 0, 0)
        queue._heap = [(nowhere, self.nodes[node_id]) for node_id in ids]
        gone = Node(-1, None, b"", 0, [], 0)
        gone.alive = False
        queue._heap += [(nowhere, gone)] * (num_entries - len(ids))
        return queue


def _part(
    device: list[int] | None,
    host: list[int] | None,
    locks: Iterable[int],
    queued: Iterable[bool],
    used_at: int,
) -> Part:
    part = Part()
    part.used_at = used_at
    part.pages = [device, host]
    part.locks = list(locks)
    part.queued = list(queued)
    return part
