"""Eviction. Victims come from the queues, oldest first; what goes with one is decided here.

    DEVICE, base    a leaf of the device, with its windows: demoted if the host has it, else deleted
                    with what the host has below it (only HostPaths.GAPS allows anything there)
    DEVICE, window  at such a leaf: the whole leaf; inside the tree: the window, leaving a tombstone
    HOST, base      a leaf that is on the host only: deleted
    HOST, window    the same two cases; never while the window is on the device as well

A deleted leaf may leave a parent that is a leaf without any window: no match can end there or
below, so it goes as well, and so on upwards.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from hicache_ext.errors import TreeError
from hicache_ext.tier import Tier
from hicache_ext.tree import kinds
from hicache_ext.tree.components.base import Component
from hicache_ext.tree.lock import check_tier
from hicache_ext.tree.node import TIERS, Node
from hicache_ext.tree.pages import is_whole
from hicache_ext.tree.queue import can_drop_base, is_locked
from hicache_ext.tree.results import EvictResult
from hicache_ext.tree.state import TreeState


def new_result(state: TreeState) -> EvictResult:
    return EvictResult(
        {component.name: [] for component in state.components},
        {component.name: [] for component in state.components},
    )


def evict(state: TreeState, tier: Tier, num_pages: Mapping[str, int]) -> EvictResult:
    tier = check_tier(tier)
    for name, count in num_pages.items():
        state.component(name)
        if not is_whole(count) or count < 0:
            raise TreeError(f"evict {count} pages of {name!r}")
    result = new_result(state)
    freed = result.on(tier)
    for component in state.components:
        queue = state.queues[component.idx][tier]
        while len(freed[component.name]) < num_pages.get(component.name, 0):
            victim = queue.pop()
            if victim is None:
                break
            evict_victim(state, victim, component, tier, result)
    wanted = tuple(num_pages.get(component.name, 0) for component in state.components)
    state.log.add(kinds.EVICT, wanted, tier, *result.num_freed, len(state.nodes))
    return result


def coldest(state: TreeState, tier: Tier, component_name: str, num_pages: int) -> list[int]:
    component = state.component(component_name)
    if num_pages < 0:
        raise TreeError(f"the coldest {num_pages} pages of {component_name!r}")
    queue = state.queues[component.idx][check_tier(tier)]
    return [node.id for node in queue.coldest(num_pages)]


def clear(state: TreeState, tier: Tier) -> EvictResult:
    """Give up all that is not locked on `tier`, host copies of pages on the device included."""
    tier = check_tier(tier)
    result = new_result(state)
    for node in _bottom_up(state.nodes.values()):
        for component in reversed(state.components):
            if node.parts[component.idx].pages[tier] is None:
                continue
            if is_locked(node, component, tier, state.components):
                continue
            if not component.is_base:
                drop(state, node, component, tier, result)
            elif not node.children_on[tier]:
                _clear_base(state, node, tier, result)
        if node.alive:
            state.refresh(node)
    if state.events is not None and not any(state.owned[state.base.idx]):
        state.events.cleared()
    state.log.add(kinds.CLEAR, tier, *result.num_freed, len(state.nodes))
    return result


def _clear_base(state: TreeState, node: Node, tier: Tier, result: EvictResult) -> None:
    other = Tier.HOST if tier == Tier.DEVICE else Tier.DEVICE
    if node.parts[state.base.idx].pages[other] is not None:
        drop(state, node, state.base, tier, result)
    elif can_drop_base(node, tier, state.components):
        drop(state, node, state.base, tier, result)
        _delete(state, node, result)


def _bottom_up(nodes: Iterable[Node]) -> list[Node]:
    """The deepest first; the same order on every rank."""
    return sorted((n for n in nodes if not n.is_root), key=lambda n: (-n.end, n.id))


def evict_victim(
    state: TreeState, node: Node, component: Component, tier: Tier, result: EvictResult
) -> None:
    """Take one victim's pages and what hangs on them, then any dead end left above it."""
    if not can_drop_base(node, tier, state.components):
        drop(state, node, component, tier, result)
        state.refresh(node)
        return
    _evict_leaf(state, node, tier, result)
    node = node.parent
    while _is_dead_end(state, node) and can_drop_base(node, tier, state.components):
        _evict_leaf(state, node, tier, result)
        node = node.parent


def _evict_leaf(state: TreeState, node: Node, tier: Tier, result: EvictResult) -> None:
    """Give up all of a leaf's pages on `tier`, and the node if that was all it had."""
    drop(state, node, state.base, tier, result)
    if all(node.parts[state.base.idx].pages[t] is None for t in TIERS):
        _delete(state, node, result)
    else:
        state.refresh(node)
    state.refresh(node.parent)


def _delete(state: TreeState, node: Node, result: EvictResult) -> None:
    """Take `node`, which has no pages left, out of the tree, with what the host has below it."""
    below = [node]
    for above in below:  # grows while it is read
        below.extend(above.children.values())
    for lost in _bottom_up(below):
        drop(state, lost, state.base, Tier.HOST, result)
        state.remove(lost)


def _is_dead_end(state: TreeState, node: Node) -> bool:
    """Whether no match can end at `node` or below it."""
    return not node.children and not all(c.can_end(node) for c in state.components)


def drop(
    state: TreeState, node: Node, component: Component, tier: Tier, result: EvictResult
) -> None:
    """Give up `component`'s pages at `node` on `tier`, and those of the components it takes with
    it.
    """
    freed = result.on(tier)
    for other in state.components:
        if other is component or other.rank < component.rank:
            freed[other.name].extend(state.detach(node, other, tier))
