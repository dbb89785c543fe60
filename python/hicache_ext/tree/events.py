"""What became of base pages since somebody asked: for routers that follow what this cache holds.

Raised where pages join and leave the tree (TreeState.attach and detach), so a split raises nothing,
a demotion only the removal on the device. Order is that of the calls: a node after its parent, its
removal after all of its children's. Events take no part in any decision and are in no digest.
"""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING, NamedTuple

from hicache_ext.keys import KEY_BYTES
from hicache_ext.tier import Tier
from hicache_ext.tree.node import TIERS, Node

if TYPE_CHECKING:
    from hicache_ext.tree.state import TreeState

MAX_PENDING_PAGES = 1 << 18
"""Pages in events that wait for a take; with more, all give way to what the tree holds then."""


class EventKind(Enum):
    """What happened to the pages of an event."""

    STORED = "stored"
    REMOVED = "removed"
    CLEARED = "cleared"  # nothing is left, on any tier


class PageEvent(NamedTuple):
    """One run of consecutive pages on one tier."""

    kind: EventKind
    tier: Tier = Tier.DEVICE
    keys: bytes = b""  # 32 bytes per page
    parent: bytes = b""  # STORED: the key of the page before; b"" at the beginning of a sequence
    tokens: bytes = b""  # STORED: as the tree packs them
    namespace: bytes = b""  # STORED


class TreeEvents:
    """The events of one tree, oldest first. Exists only if somebody listens."""

    def __init__(self) -> None:
        self._pending: list[PageEvent] = []
        self._num_pages = 0
        self._is_lost = False  # more happened than is kept

    def stored(self, node: Node, tier: Tier) -> None:
        """`node`, whose page keys are known, has base pages on `tier` now."""
        self._add(_stored(node, tier))

    def removed(self, node: Node, tier: Tier) -> None:
        self.add_removed(tier, node.hashes or b"")

    def add_stored(self, tier: int, *fields: bytes) -> None:
        """The same with the fields of the event, from the native core."""
        self._add(PageEvent(EventKind.STORED, Tier(tier), *fields))

    def add_removed(self, tier: int, keys: bytes) -> None:
        """The pages with these keys are no longer on `tier`."""
        self._add(PageEvent(EventKind.REMOVED, Tier(tier), keys))

    @property
    def is_lost(self) -> bool:
        """Whether the next take() is a snapshot."""
        return self._is_lost

    def cleared(self) -> None:
        """The tree holds nothing: what was said before no longer matters."""
        self._pending, self._num_pages = [PageEvent(EventKind.CLEARED)], 0

    def _add(self, event: PageEvent) -> None:
        self._pending.append(event)
        self._num_pages += len(event.keys) // KEY_BYTES
        if self._num_pages > MAX_PENDING_PAGES:
            self._pending = []
            self._is_lost = True

    def take(self, roots: list[Node], base_idx: int) -> list[PageEvent]:
        """The events since the last take. After a loss: CLEARED, and all that is there now."""
        events, self._pending, self._num_pages = self._pending, [], 0
        if self._is_lost:
            self._is_lost = False
            return snapshot(roots, base_idx)
        return events


def snapshot(roots: list[Node], base_idx: int) -> list[PageEvent]:
    """CLEARED, then each run of pages that is there, parents first: all that a new listener needs.

    The page keys of the nodes are known.
    """
    events = [PageEvent(EventKind.CLEARED)]
    nodes = list(roots)
    for node in nodes:  # grows while it is read: breadth first
        pages = node.parts[base_idx].pages
        events += [_stored(node, tier) for tier in TIERS if pages[tier] is not None]
        nodes.extend(node.children.values())
    return events


def take(state: TreeState) -> list[PageEvent]:
    """TreeEvents.take of a tree; [] if nobody listens."""
    if state.events is None:
        return []
    return state.events.take(list(state.roots.values()), state.base.idx)


def snapshot_of(state: TreeState) -> list[PageEvent]:
    """snapshot() of a tree, with the page keys that it needs."""
    for node in state.nodes.values():
        state.hash_path(node)
    return snapshot(list(state.roots.values()), state.base.idx)


def _stored(node: Node, tier: Tier) -> PageEvent:
    parent = (node.parent.hashes or b"")[-KEY_BYTES:]  # a root has none
    keys = node.hashes or b""
    return PageEvent(EventKind.STORED, tier, keys, parent, node.key, node.namespace)
