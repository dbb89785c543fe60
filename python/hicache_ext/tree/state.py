"""The tree's data and the few primitives that change it; every operation is built of these.

attach() and detach() are the only two that move a page into or out of the tree: they are its
ledger.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from hicache_ext.errors import LayoutError, TreeError
from hicache_ext.keys import KEY_BYTES, namespace_seed
from hicache_ext.oplog import OpLog
from hicache_ext.tier import Tier
from hicache_ext.tree import kinds
from hicache_ext.tree.components.base import Component
from hicache_ext.tree.digest import StateDigest, TokenHash
from hicache_ext.tree.events import TreeEvents
from hicache_ext.tree.key import KeyUnit, PageKeys
from hicache_ext.tree.node import TIERS, Node, Part, covered_pages, suffix
from hicache_ext.tree.queue import EvictQueue
from hicache_ext.tree.results import HostPaths, Receipt, TransferPlan
from hicache_ext.tree.strategy import VALUES, Strategy

if TYPE_CHECKING:
    from hicache_ext.tree.window import WindowTxn


class TreeState:
    """Nodes, owned pages, clock, digest, open receipts, plans and transaction."""

    def __init__(
        self,
        page_size: int,
        components: Sequence[Component],
        page_keys: PageKeys,
        token_hash: TokenHash,
        log: OpLog,
        *,
        unit: KeyUnit,
        strategy: Strategy,
        host_paths: HostPaths,
        events: TreeEvents | None,
    ) -> None:
        self.page_size = page_size
        self.unit = unit
        self.page_bytes = page_size * unit.num_bytes
        self.components = bound_components(components, page_size)
        self.base = self.components[0]
        self.page_keys = page_keys
        self.token_hash = token_hash
        self.log = log
        self.events = events
        self.roots: dict[bytes, Node] = {}
        self.nodes: dict[int, Node] = {}
        self.next_id = 0
        self.clock = (
            0  # one step per call that uses nodes; never wall time, which ranks do not share
        )
        self.digest = StateDigest(token_hash)
        # Membership only: nothing may depend on the order of these sets.
        self.owned: list[list[set[int]]] = [[set() for _ in TIERS] for _ in self.components]
        self.queues = [
            [EvictQueue(c, t, self.components, VALUES[strategy]) for t in TIERS]
            for c in self.components
        ]
        self.host_paths = host_paths
        # Pages at nodes where the component is locked, by component and tier.
        self.num_protected = [[0 for _ in TIERS] for _ in self.components]
        self.receipts: dict[int, Receipt] = {}
        self.plans: dict[int, TransferPlan] = {}
        self.next_ticket = 0  # ids of receipts and plans
        self.txn: WindowTxn | None = None

    # --- lookups and checks ---------------------------------------------------------------------

    def get(self, node_id: int) -> Node:
        """The node of this id; TreeError if there is none (any more)."""
        node = self.nodes.get(node_id) if isinstance(node_id, int) else None
        if node is None:
            raise TreeError(f"node {node_id} does not exist (next id {self.next_id})")
        return node

    def component(self, name: str) -> Component:
        """The component of this name; TreeError with the known ones otherwise."""
        for component in self.components:
            if component.name == name:
                return component
        known = [component.name for component in self.components]
        raise TreeError(f"component {name!r} is unknown; this tree has {known}")

    def guard(self) -> None:
        """Every call that changes the tree starts here: none may while a window is open."""
        if self.txn is not None:
            raise TreeError(f"a window transaction is open: {self.txn}")

    def tick(self) -> None:
        self.clock += 1

    # --- nodes ----------------------------------------------------------------------------------

    def find_root(self, namespace: bytes) -> Node | None:
        """The root of `namespace` if there is one."""
        if not isinstance(namespace, bytes):
            raise TreeError(f"a namespace is bytes, got {namespace!r}")
        return self.roots.get(namespace)

    def root(self, namespace: bytes) -> Node:
        """The root of `namespace`, made on demand."""
        root = self.find_root(namespace)
        if root is None:
            root = self._make(None, b"", 0)
            root.namespace = namespace
            self.roots[namespace] = root
            self.log.add(kinds.ROOT, self.token_hash(namespace), root.id)
        return root

    def add_child(self, parent: Node, key: bytes) -> Node:
        """A new node with the tokens `key` below `parent`, without pages."""
        node = self._make(parent, key, parent.end + len(key) // self.page_bytes)
        parent.children[key[: self.page_bytes]] = node
        return node

    def _make(self, parent: Node | None, key: bytes, end: int) -> Node:
        parts = [Part() for _ in self.components]
        node = Node(self.next_id, parent, key, end, parts, self.clock)
        self.nodes[node.id] = node
        self.next_id += 1
        self.digest.changed(node)
        return node

    def remove(self, node: Node) -> None:
        """Take a node without pages, locks and children out of the tree."""
        del node.parent.children[node.key[: self.page_bytes]]
        del self.nodes[node.id]
        node.alive = False
        self.digest.removed(node)
        for queues in self.queues:
            for queue in queues:
                queue.forget(node)

    def hash_path(self, node: Node) -> None:
        """Compute the page keys of `node` and of those above that lack them; they are kept."""
        missing: list[Node] = []
        while not node.is_root and node.hashes is None:  # the chain above the first is complete
            missing.append(node)
            node = node.parent
        page_words = self.page_size * self.unit.num_words
        for node in reversed(missing):
            above = node.parent
            seed = namespace_seed(node.namespace) if above.is_root else _last_key(above)
            node.hashes = b"".join(self.page_keys(node.key, page_words, seed))

    # --- pages ----------------------------------------------------------------------------------

    def attach(self, node: Node, component: Component, tier: Tier, pages: list[int]) -> None:
        """The node takes over the pages, one per page of it; it must have none there."""
        part = node.parts[component.idx]
        part.pages[tier] = pages
        if part.locks[tier]:
            self.num_protected[component.idx][tier] += len(pages)
        self.owned[component.idx][tier].update(pages)
        self.digest.changed(node)
        if component.is_base:
            node.parent.children_on[tier] += 1
            if self.events is not None:
                self.hash_path(node)
                self.events.stored(node, tier)

    def detach(self, node: Node, component: Component, tier: Tier) -> list[int]:
        """The node gives its pages up, to the caller; [] if it has none there."""
        part = node.parts[component.idx]
        pages = part.pages[tier]
        if pages is None:
            return []
        part.pages[tier] = None
        if part.locks[tier]:  # only a window that is taken back: eviction skips what is locked
            self.num_protected[component.idx][tier] -= len(pages)
        self.owned[component.idx][tier].difference_update(pages)
        self.digest.changed(node)
        if component.is_base:
            node.parent.children_on[tier] -= 1
            if self.events is not None:
                self.events.removed(node, tier)
        return pages

    def can_attach(self, node: Node, component: Component, tier: Tier) -> bool:
        """Whether `node` lacks and may take pages: the base needs its parent's, the others the
        base's.
        """
        if node.parts[component.idx].pages[tier] is not None:
            return False
        if component.is_base and tier == Tier.HOST:
            return self.can_hang_on_host(node.parent)
        above = node.parent if component.is_base else node
        return above.is_root or above.parts[self.base.idx].pages[tier] is not None

    def can_hang_on_host(self, parent: Node) -> bool:
        """Whether a node below `parent` may have base pages on the host."""
        if parent.is_root or self.host_paths is HostPaths.GAPS:
            return True
        return parent.parts[self.base.idx].pages[Tier.HOST] is not None

    def check_unowned(self, component: Component, tier: Tier, ids: Sequence[int]) -> None:
        """Raise TreeError if the tree has one of `ids` already, or if one is named twice."""
        owned = self.owned[component.idx][tier]
        if owned.isdisjoint(ids) and len(set(ids)) == len(ids):
            return
        seen: set[int] = set()
        for position, page in enumerate(ids):
            if page in owned or page in seen:
                why = "is in the tree already" if page in owned else "is named twice"
                raise TreeError(
                    f"{component.name} {tier.name.lower()} page {page} {why} (new page {position})"
                )
            seen.add(page)

    # --- locks ----------------------------------------------------------------------------------

    def lock(self, node: Node, idx: int, tier: Tier) -> None:
        """Count one lock of component `idx` more."""
        part = node.parts[idx]
        part.locks[tier] += 1
        if part.locks[tier] == 1:
            self.num_protected[idx][tier] += len(part.pages[tier] or ())

    def unlock(self, node: Node, idx: int, tier: Tier) -> None:
        """Count one less."""
        part = node.parts[idx]
        part.locks[tier] -= 1
        if not part.locks[tier]:
            self.num_protected[idx][tier] -= len(part.pages[tier] or ())

    # --- order of use -----------------------------------------------------------------------------

    def reach(self, node: Node) -> list[int]:
        """By component, the pages back from the end of `node` of the whole nodes that it needs."""
        return [covered_pages(node, component.need(node.end)) for component in self.components]

    def touch(self, node: Node) -> None:
        """Mark what an end at `node` needs as used now."""
        for component in self.components:
            nodes = suffix(node, component.need(node.end))
            for used in nodes:
                used.parts[component.idx].used_at = self.clock
            self.digest.changed(*nodes)

    def refresh(self, node: Node) -> None:
        """Tell the queues that `node` may have become a candidate."""
        if not node.is_root:
            for queues in self.queues:
                for queue in queues:
                    queue.refresh(node)


def _last_key(node: Node) -> bytes:
    return (node.hashes or b"")[-KEY_BYTES:]


def bound_components(components: Sequence[Component], page_size: int) -> tuple[Component, ...]:
    """The components of a new tree, which are its own from here on; LayoutError for what cannot
    be.
    """
    if page_size <= 0:
        raise LayoutError(f"page_size={page_size}: a page has at least 1 token")
    names = [component.name for component in components]
    if not components or not components[0].is_base or any(c.is_base for c in components[1:]):
        raise LayoutError(f"the first component, and only it, must be the base: {names}")
    if len(set(names)) != len(names) or any(c.idx >= 0 for c in components):
        raise LayoutError(f"components must be distinct and of no other tree: {names}")
    for idx, component in enumerate(components):
        component.bind(idx, page_size)
    return tuple(components)
