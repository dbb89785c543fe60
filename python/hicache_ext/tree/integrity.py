"""check_integrity(): the invariants of the tree, all violations at once. O(tree): for tests and for
doctor.

    I1   base pages on the device only below a parent that has them     (a root always counts)
    I2   the same on the host, unless HostPaths.GAPS allows otherwise
    I3   every node has base pages on some tier
    I4   no pages of another component on a tier without base pages
    I5   lock counts are what the open receipts say; no component is locked where the base is not
    I6   what may be evicted of the base is queued, nothing twice; children are counted right
    I7   the same of the other components
    I8   protected pages are counted right
    I9   a plan's node lives, and its pins are open
    I10  a component holds a whole node's value or none
    I11  MAMBA: one state at most
    I12  one hash per page, or none yet
    I13  what a receipt covers ends at node borders
    I14  where a match may end, no component misses what it needs
    I15  a page is at one place, and the ledger knows just those
    I16  the digest is that of the state, computed anew

and that the nodes make a tree at all.
"""

from __future__ import annotations

from collections.abc import Iterator

from hicache_ext.errors import TreeError
from hicache_ext.keys import KEY_BYTES
from hicache_ext.tier import Tier
from hicache_ext.tree.components.base import VIEW_ALL, VIEW_ANY, VIEW_DEVICE
from hicache_ext.tree.node import TIERS, Node, path, suffix
from hicache_ext.tree.results import HostPaths
from hicache_ext.tree.state import TreeState


def check_integrity(state: TreeState) -> None:
    """Raise TreeError listing every violated invariant, by its number above."""
    raise_violations(violations(state))


def raise_violations(found: list[str]) -> None:
    """TreeError if there are any."""
    if found:
        raise TreeError(f"{len(found)} violations:\n" + "\n".join(found))


def violations(state: TreeState) -> list[str]:
    """What is wrong, each with its number above. The native core says the same in the same words
    (csrc/tree/check*.cpp).
    """
    nodes = [*state.roots.values()]
    for node in nodes:  # grows while it is read: breadth first
        nodes.extend(node.children.values())
    inner = [node for node in nodes if not node.is_root]
    found = [*_structure(state, nodes), *_ownership(state, nodes)]
    found += [*_receipts(state), *_plans(state), *_locks(state, nodes)]
    for node in inner:
        found.extend(f"node {node.id}: {text}" for text in _residency(state, node))
        found.extend(f"node {node.id}: {text}" for text in _ends(state, node))
    for queue in [queue for queues in state.queues for queue in queues if state.txn is None]:
        found.extend(queue.violations(inner))  # an open transaction has not told the queues yet
    kept, anew = state.digest.value(state), state.digest.recomputed(state, nodes)
    if kept != anew:
        found.append(f"the digest is {kept:#x}, computed anew {anew:#x} (I16)")
    return found


def _structure(state: TreeState, nodes: list[Node]) -> Iterator[str]:
    if {node.id: node for node in nodes} != state.nodes:
        reached = {node.id for node in nodes}
        yield f"reachable nodes and the index differ: {sorted(reached ^ set(state.nodes))}"
    for namespace, root in state.roots.items():
        if not root.is_root or root.end or root.key or root.namespace != namespace:
            yield f"root {root.id} of {namespace!r} is no root"
    for node in nodes:
        if not node.alive or node.id >= state.next_id:
            yield f"node {node.id}: alive {node.alive}, next id {state.next_id}"
        for first_page, child in node.children.items():
            if child.parent is not node or child.namespace != node.namespace:
                yield f"node {child.id}: parent {child.parent.id}, found below {node.id}"
            if first_page != child.key[: state.page_bytes]:
                yield f"node {child.id}: filed under another first page"
            if child.num_hits > node.num_hits and not node.is_root:
                yield f"node {child.id}: {child.num_hits} hits below {node.num_hits}"
        if not node.is_root and (
            not node.key or len(node.key) != node.num_pages * state.page_bytes
        ):
            yield f"node {node.id}: {len(node.key)} key bytes for {node.num_pages} pages"
        if node.hashes is not None and len(node.hashes) != node.num_pages * KEY_BYTES:
            yield f"node {node.id}: {len(node.hashes)} hash bytes for {node.num_pages} pages (I12)"
        for tier in TIERS:
            holding = [c for c in node.children.values() if _has_base(state, c, tier)]
            if len(holding) != node.children_on[tier]:
                yield f"node {node.id}: counts {node.children_on[tier]} {tier.name} children (I6)"


def _has_base(state: TreeState, node: Node, tier: int) -> bool:
    return node.parts[state.base.idx].pages[tier] is not None


def _residency(state: TreeState, node: Node) -> Iterator[str]:
    for tier, law in zip(TIERS, ("I1", "I2"), strict=True):
        has_base = _has_base(state, node, tier)
        may_miss = tier == Tier.HOST and state.host_paths is HostPaths.GAPS
        is_below = not node.parent.is_root and not may_miss
        if has_base and is_below and not _has_base(state, node.parent, tier):
            yield f"base on {tier.name}, but not at its parent {node.parent.id} ({law})"
        for component in state.components:
            part = node.parts[component.idx]
            if part.pages[tier] is not None and not has_base:
                yield f"{component.name} on {tier.name} without base pages (I4)"
            if not 0 <= part.locks[tier] <= node.parts[state.base.idx].locks[tier]:
                yield f"{component.name} {tier.name} lock count {part.locks[tier]} (I5)"
    if not any(_has_base(state, node, tier) for tier in TIERS):
        yield "no base pages on any tier (I3)"
    for component in state.components:
        yield from component.violations(node)


def _ends(state: TreeState, node: Node) -> Iterator[str]:
    """Whether the gates and what the nodes hold agree on where a match may end."""
    views = VIEW_ALL
    for component in state.components:
        gate, of_component = component.gate(), VIEW_ALL
        for above in path(node):
            of_component = gate.step(above)
        if of_component & VIEW_DEVICE and not of_component & VIEW_ANY:
            yield f"{component.name} ends a match on the device alone (I14)"
        if of_component & VIEW_ANY and not component.can_end(node):
            yield f"{component.name} ends a match where it holds nothing (I14)"
        views &= of_component
    if views & VIEW_DEVICE and not _has_base(state, node, Tier.DEVICE):
        yield "a match on the device may end here, without base pages (I14)"


def _receipts(state: TreeState) -> Iterator[str]:
    for receipt in state.receipts.values():
        node = state.nodes.get(receipt.node)
        if node is None:
            yield f"receipt {receipt.id}: node {receipt.node} is gone (I13)"
            continue
        for num_pages in receipt.num_pages:
            if sum(part.num_pages for part in suffix(node, num_pages)) != num_pages:
                yield f"receipt {receipt.id}: {num_pages} pages do not end at a node border (I13)"


def _plans(state: TreeState) -> Iterator[str]:
    for plan in state.plans.values():
        if plan.node not in state.nodes:
            yield f"plan {plan.id}: its node {plan.node} is gone (I9)"
        for receipt in plan.receipts:
            if state.receipts.get(receipt.id) is not receipt:
                yield f"plan {plan.id}: its pin {receipt.id} is gone (I9)"


def _locks(state: TreeState, nodes: list[Node]) -> Iterator[str]:
    expected: dict[tuple[int, int, int], int] = {}
    for receipt in state.receipts.values():
        for idx, num_pages in enumerate(receipt.num_pages):
            for locked in suffix(state.nodes.get(receipt.node, nodes[0]), num_pages):
                key = (locked.id, idx, receipt.tier)
                expected[key] = expected.get(key, 0) + 1
    protected = [[0 for _ in TIERS] for _ in state.components]
    for node in nodes:
        for idx, part in enumerate(node.parts):
            for tier in TIERS:
                count = expected.get((node.id, idx, tier), 0)
                if part.locks[tier] != count:
                    have = f"{part.locks[tier]} {tier.name} locks"
                    yield f"node {node.id}: {have}, the receipts say {count} (I5)"
                if part.locks[tier]:
                    protected[idx][tier] += len(part.pages[tier] or ())
    if protected != state.num_protected:
        yield f"protected pages {protected}, counted as {state.num_protected} (I8)"


def _ownership(state: TreeState, nodes: list[Node]) -> Iterator[str]:
    for component in state.components:
        for tier in TIERS:
            values = [node.parts[component.idx].pages[tier] for node in nodes]
            pages = [page for value in values if value is not None for page in value]
            where = f"{component.name} {tier.name}"
            if len(set(pages)) != len(pages):
                twice = sorted({page for page in pages if pages.count(page) > 1})
                yield f"{where}: pages held twice: {twice} (I15)"
            if set(pages) != state.owned[component.idx][tier]:
                differ = sorted(set(pages) ^ state.owned[component.idx][tier])
                yield f"{where}: nodes and ledger differ on pages {differ} (I15)"
