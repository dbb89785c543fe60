"""Locks. A lock counts on whole nodes, back from its end node, as far as each component reaches.

    root ── A[2] ── B[2] ── C[2]      window: 3 pages
    lock(C)                           FULL locks A B C (6 pages), SWA locks B C (4 pages)

The receipt remembers the end node and the pages per component. A split keeps the id for the suffix
and copies the counts, so walking up from the end node until the pages are covered visits exactly
the nodes, or their fragments, that were locked. Locked pages are not freed and their nodes not
deleted.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeVar

from hicache_ext.errors import TreeError
from hicache_ext.tier import Tier
from hicache_ext.tree import kinds
from hicache_ext.tree.node import TIERS, Node, covered_pages, suffix
from hicache_ext.tree.pages import is_whole
from hicache_ext.tree.results import Pin, Receipt
from hicache_ext.tree.state import TreeState

ReceiptT = TypeVar("ReceiptT", bound=Receipt)


def check_tier(tier: Tier) -> Tier:
    """The tier, or TreeError for one that a tree holds no pages on."""
    if tier not in TIERS:
        raise TreeError(f"tier {tier!r}: a tree holds pages on the device and on the host")
    return Tier(tier)


def acquire(
    state: TreeState,
    node: Node,
    tier: Tier,
    num_pages: Sequence[int],
    kind: type[ReceiptT],
) -> ReceiptT:
    """Lock so many pages per component back from the end of `node`; they end at node borders."""
    for component, pages in zip(state.components, num_pages, strict=True):
        nodes = suffix(node, pages)
        for locked in nodes:
            state.lock(locked, component.idx, tier)
        state.digest.changed(*nodes)
    receipt = kind(state.next_ticket, node.id, tier, tuple(num_pages))
    state.receipts[receipt.id] = receipt
    state.digest.opened(receipt)
    state.next_ticket += 1
    return receipt


def release(state: TreeState, receipt: Receipt) -> None:
    """Undo the acquire() of `receipt`, fragments included."""
    node = state.get(receipt.node)
    del state.receipts[receipt.id]
    state.digest.closed(receipt)
    for component, pages in zip(state.components, receipt.num_pages, strict=True):
        for locked in suffix(node, pages):
            state.unlock(locked, component.idx, receipt.tier)
    unlocked = suffix(node, max(receipt.num_pages))
    state.digest.changed(*unlocked)
    for locked in unlocked:
        state.refresh(locked)


def check_open(receipts: Mapping[int, Receipt], receipt: Receipt) -> None:
    """TreeError unless a caller holds `receipt`, one of these, which were not given back."""
    if not isinstance(receipt, Receipt) or receipts.get(receipt.id) is not receipt:
        raise TreeError(f"{receipt!r} is no open receipt of this tree")
    if isinstance(receipt, Pin):
        raise TreeError(f"{receipt!r} is a plan's: commit or abort gives it back")


def lock(
    state: TreeState, node_id: int, tier: Tier, num_pages: Mapping[str, int] | None
) -> Receipt:
    """Lock what an end at the node needs, or so many pages back from it, rounded up to nodes."""
    node = state.get(node_id)
    reach = state.reach(node) if num_pages is None else _whole_nodes(state, node, num_pages)
    receipt = acquire(state, node, check_tier(tier), reach, Receipt)
    state.log.add(kinds.LOCK, node.id, receipt.tier, receipt.num_pages, receipt.id)
    return receipt


def unlock(state: TreeState, receipt: Receipt) -> None:
    check_open(state.receipts, receipt)
    release(state, receipt)
    state.log.add(kinds.UNLOCK, receipt.id)


def release_window(state: TreeState, receipt: Receipt, component_name: str) -> Receipt:
    check_open(state.receipts, receipt)
    component = state.component(component_name)
    if component.is_base:
        raise TreeError(
            f"{component_name!r} is the base: it is locked as long as the receipt is open"
        )
    kept = list(receipt.num_pages)
    num_pages, kept[component.idx] = kept[component.idx], 0
    nodes = suffix(state.get(receipt.node), num_pages)
    for node in nodes:
        state.unlock(node, component.idx, receipt.tier)
    state.digest.closed(receipt)
    left = Receipt(receipt.id, receipt.node, receipt.tier, tuple(kept))
    state.receipts[left.id] = left
    state.digest.opened(left)
    state.digest.changed(*nodes)
    for node in nodes:
        state.refresh(node)
    state.log.add(kinds.RELEASE_WINDOW, receipt.id, component.idx, num_pages)
    return left


def _whole_nodes(state: TreeState, node: Node, num_pages: Mapping[str, int]) -> list[int]:
    """By component; a count that ended inside of a node would lose a fragment in a later split."""
    reach = [0 for _ in state.components]
    for name, count in num_pages.items():
        if not is_whole(count) or not 0 <= count <= node.end:
            raise TreeError(
                f"lock of {count} {name} pages back from node {node.id}, {node.end} pages deep"
            )
        reach[state.component(name).idx] = covered_pages(node, count)
    reach[state.base.idx] = node.end  # what lies on the path must not vanish
    return reach
