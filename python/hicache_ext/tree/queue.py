"""Which node goes next: one queue per component and tier, lazy, so that a touch costs nothing here.

A node is queued when it becomes a candidate and stays in the heap when it stops being one or when
its key grows; both are found out when it comes to the top. Keys only grow, so the top is never too
late. The order is total and the same on every rank:

    pages that no end point has needed yet, the strategy's number, last use, age, depth, node id

The first is what makes the order window-aware: windows inside of a long prefix, which only a prompt
that branches off there could use, go before any window that lies behind an end point.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence

from hicache_ext.tier import Tier
from hicache_ext.tree.components.base import Component
from hicache_ext.tree.node import Node
from hicache_ext.tree.strategy import NodeValue

Key = tuple[bool, int, int, int, int, int]
_COMPACT_SLACK = 64


def is_locked(
    node: Node, component: Component, tier: Tier, components: Sequence[Component]
) -> bool:
    """Whether `component` at `node`, or one that would go with it, is locked on `tier`."""
    return any(
        node.parts[other.idx].locks[tier]
        for other in components
        if other is component or other.rank < component.rank
    )


def can_drop_base(node: Node, tier: Tier, components: Sequence[Component]) -> bool:
    """Whether the base pages of `node` on `tier` may go: a leaf of that tier that nobody uses.

    On the device a leaf with host pages is demoted, one without is deleted with what the host has
    below it; on the host only leaves that are nowhere else are given up. A deleted node must not be
    locked on the other tier either; what is below is not, since a lock counts up to the root.
    """
    part = node.parts[components[0].idx]
    if node.is_root or part.pages[tier] is None or part.locks[tier] or node.children_on[tier]:
        return False
    other = Tier.HOST if tier == Tier.DEVICE else Tier.DEVICE
    if part.pages[other] is not None:
        return tier == Tier.DEVICE
    return not part.locks[other]


def can_drop(node: Node, component: Component, tier: Tier, components: Sequence[Component]) -> bool:
    """Whether the pages of `component` at `node` on `tier` are a victim for its queue."""
    if component.is_base:
        return can_drop_base(node, tier, components)
    part = node.parts[component.idx]
    if part.pages[tier] is None:
        return False
    if tier == Tier.HOST and part.pages[Tier.DEVICE] is not None:
        return False  # the host copy of a page in use on the device is what makes it cheap to evict
    return not is_locked(node, component, tier, components)


class EvictQueue:
    """Candidates of one component on one tier."""

    def __init__(
        self,
        component: Component,
        tier: Tier,
        components: Sequence[Component],
        strategy: NodeValue,
    ) -> None:
        self._strategy = strategy
        self._component = component
        self._tier = tier
        self._components = components
        self._heap: list[tuple[Key, Node]] = []
        self._num_live = 0

    def refresh(self, node: Node) -> None:
        """Queue `node` if it is a candidate now and not queued."""
        part = node.parts[self._component.idx]
        if part.queued[self._tier] or part.pages[self._tier] is None:
            return
        if can_drop(node, self._component, self._tier, self._components):
            part.queued[self._tier] = True
            self._num_live += 1
            heapq.heappush(self._heap, (self._key(node), node))

    def forget(self, node: Node) -> None:
        """`node` is deleted. Its entry stays until dead entries outnumber the others."""
        part = node.parts[self._component.idx]
        if not part.queued[self._tier]:
            return
        part.queued[self._tier] = False
        self._num_live -= 1
        if len(self._heap) > 2 * self._num_live + _COMPACT_SLACK:
            self._heap = [entry for entry in self._heap if entry[1].alive and entry[1] is not node]
            heapq.heapify(self._heap)

    def coldest(self, num_pages: int) -> list[Node]:
        """The next victims, until they have `num_pages` pages; they stay queued."""
        nodes: list[Node] = []
        while num_pages > 0 and (node := self.pop()) is not None:
            nodes.append(node)
            num_pages -= len(node.parts[self._component.idx].pages[self._tier] or ())
        for node in nodes:
            self.refresh(node)
        return nodes

    def _key(self, node: Node) -> Key:
        used_at = node.parts[self._component.idx].used_at
        return used_at > 0, self._strategy(node), used_at, node.made_at, node.end, node.id

    def pop(self) -> Node | None:
        """Take the next victim out of the queue; None if there is none."""
        while self._heap:
            queued_key, node = self._heap[0]
            if not node.alive:
                heapq.heappop(self._heap)
                continue
            key = self._key(node)
            candidate = can_drop(node, self._component, self._tier, self._components)
            if candidate and key != queued_key:
                heapq.heapreplace(self._heap, (key, node))
                continue
            heapq.heappop(self._heap)
            node.parts[self._component.idx].queued[self._tier] = False
            self._num_live -= 1
            if candidate:
                return node
        return None

    def violations(self, nodes: Sequence[Node]) -> list[str]:
        """Candidates that are not queued, entries that disagree with the nodes' flags (I6, I7)."""
        where = f"{self._component.name} {self._tier.name.lower()} queue"
        entries = [node.id for _, node in self._heap if node.alive]
        found = [f"{where}: {len(entries)} entries, {self._num_live} live"] * (
            len(entries) != self._num_live or len(set(entries)) != len(entries)
        )
        known = set(entries)
        for node in nodes:
            queued = node.parts[self._component.idx].queued[self._tier]
            if queued != (node.id in known):
                found.append(f"{where}: node {node.id} flag {queued}, entry {node.id in known}")
            if not queued and can_drop(node, self._component, self._tier, self._components):
                found.append(f"{where}: candidate {node.id} is not queued")
        law = "I6" if self._component.is_base else "I7"
        return [f"{text} ({law})" for text in found]
