"""Host copies of pages that the device has as well: what a full host gives up when all else is in
use.

Most recently used first: what the device will keep longest needs its host copy last. Base pages go
from the leaves of the host upwards, and take the other components' host pages at the node along.
"""

from __future__ import annotations

import heapq
from collections.abc import Mapping

from hicache_ext.errors import TreeError
from hicache_ext.tier import Tier
from hicache_ext.tree import kinds
from hicache_ext.tree.components.base import Component
from hicache_ext.tree.evict import drop, new_result
from hicache_ext.tree.node import Node
from hicache_ext.tree.queue import is_locked
from hicache_ext.tree.results import EvictResult
from hicache_ext.tree.state import TreeState

SHARE = 8  # a scan gives up this part of what it finds, so that pages pay for it, not calls


def drop_duplicates(state: TreeState, num_pages: Mapping[str, int]) -> EvictResult:
    """At least so many host pages per component, if there are; O(nodes), amortized O(pages)."""
    for name, count in num_pages.items():
        state.component(name)
        if count < 0:
            raise TreeError(f"drop {count} host duplicates of {name!r}")
    result = new_result(state)
    for component in state.components:
        wanted = num_pages.get(component.name, 0)
        if wanted > len(result.host[component.name]):
            _drop(state, component, wanted, result)
    wanted_pages = tuple(num_pages.get(component.name, 0) for component in state.components)
    state.log.add(kinds.DUPLICATES, wanted_pages, result.num_freed[Tier.HOST])
    return result


def _drop(state: TreeState, component: Component, num_pages: int, result: EvictResult) -> None:
    idx, freed = component.idx, result.host[component.name]
    heap = [
        _entry(node, component)
        for node in state.nodes.values()
        if _can_drop(state, node, component)
    ]
    heapq.heapify(heap)
    num_found = sum(len(node.parts[idx].pages[Tier.HOST] or ()) for *_, node in heap)
    while heap and len(freed) < max(num_pages, num_found // SHARE):
        node = heapq.heappop(heap)[-1]
        drop(state, node, component, Tier.HOST, result)
        state.refresh(node)
        above = node.parent
        if component.is_base and not above.is_root:
            state.refresh(above)
            if _can_drop(state, above, component):
                heapq.heappush(heap, _entry(above, component))


def _entry(node: Node, component: Component) -> tuple[int, int, int, Node]:
    return -node.parts[component.idx].used_at, -node.end, node.id, node


def _can_drop(state: TreeState, node: Node, component: Component) -> bool:
    if node.is_root or None in node.parts[component.idx].pages:
        return False
    if is_locked(node, component, Tier.HOST, state.components):
        return False
    if not component.is_base:
        return True
    # An aux page that only the host has would be lost with the base's.
    return not node.children_on[Tier.HOST] and all(
        device is not None or host is None for device, host in (p.pages for p in node.parts)
    )
