"""The digest of the tree's state: trees with equal digests decide the same from here on.

    hash of (clock, next ids, sum of the hashes of all nodes, open receipts and open plans)

A sum knows no order, and what changes is taken out of it and put in anew, so a digest costs
O(what changed since the last one). The hash is that of tuples of ints, see oplog.py.

Covered: ids, parents, depths and tokens; on which tiers each component has pages; lock counts;
logical clocks, hits and priorities, which are the order of eviction; receipts, plans and the ids
that come next.
Left out: page ids, which are each rank's own; page keys and eviction queues, which follow from
what is covered; the order of children, which decides nothing but the order of freed ids.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from hicache_ext.oplog import HASH_MASK
from hicache_ext.tree.node import Node
from hicache_ext.tree.results import Receipt, TransferPlan

if TYPE_CHECKING:
    from hicache_ext.tree.state import TreeState

TokenHash = Callable[[bytes], int]


class StateDigest:
    """The sum, and the nodes whose hash in it is of an older state."""

    def __init__(self, token_hash: TokenHash) -> None:
        self.num_hashed_nodes = 0  # work done so far
        self._token_hash = token_hash
        self._sum = 0
        self._changed: set[Node] = set()

    def changed(self, *nodes: Node) -> None:
        """These are new, or something that the digest covers has changed in them."""
        self._changed.update(nodes)

    def removed(self, node: Node) -> None:
        """The node is no longer in the tree."""
        self._changed.discard(node)
        self._sum -= node.hash_in_digest

    def opened(self, item: Receipt | TransferPlan) -> None:
        self._sum += _hash_of_open(item)

    def closed(self, item: Receipt | TransferPlan) -> None:
        self._sum -= _hash_of_open(item)

    def value(self, state: TreeState) -> int:
        """The digest, in [0, 2^62)."""
        for node in self._changed:
            if node.key_hash is None:
                node.key_hash = self._token_hash(node.key or node.namespace)
            new = _hash_of_node(node, node.key_hash)
            self._sum += new - node.hash_in_digest
            node.hash_in_digest = new
        self.num_hashed_nodes += len(self._changed)
        self._changed.clear()
        return _combine(state, self._sum)

    def recomputed(self, state: TreeState, nodes: Iterable[Node]) -> int:
        """What value() must be, from `nodes`, all of the tree, and nothing that was kept."""
        total = sum(_hash_of_node(n, self._token_hash(n.key or n.namespace)) for n in nodes)
        total += sum(_hash_of_open(item) for item in state.receipts.values())
        total += sum(_hash_of_open(item) for item in state.plans.values())
        return _combine(state, total)


def _combine(state: TreeState, total: int) -> int:
    counters = state.clock, state.next_id, state.next_ticket
    return hash((*counters, total & HASH_MASK)) & HASH_MASK


def _hash_of_node(node: Node, key_hash: int) -> int:
    fields = [node.id, node.parent.id, node.end, key_hash]
    fields += node.made_at, node.num_hits, node.priority
    for part in node.parts:
        device, host = part.pages
        num_device = -1 if device is None else len(device)
        num_host = -1 if host is None else len(host)
        fields += num_device, num_host, *part.locks, part.used_at
    return hash(tuple(fields))


def _hash_of_open(item: Receipt | TransferPlan) -> int:
    if isinstance(item, Receipt):
        return hash((item.id, item.node, item.tier, *item.num_pages))
    return hash((item.id, item.node, item.target))
