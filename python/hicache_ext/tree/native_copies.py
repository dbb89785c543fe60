"""Receipts and plans of a native tree, which callers hand back: what lock.py and transfer.py say of
them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from hicache_ext.tier import Tier
from hicache_ext.tree import kinds, lock, transfer
from hicache_ext.tree.results import Pin, Receipt, Span, TransferPlan

if TYPE_CHECKING:
    from hicache_ext.tree.native import NativeTree

PlanT = TypeVar("PlanT", bound=TransferPlan)


def check_receipt(tree: NativeTree, receipt: Receipt) -> None:
    """TreeError unless `receipt` is one of a caller of this tree and was not given back."""
    tree._core.guard()
    lock.check_open(tree._receipts, receipt)


def opened(
    tree: NativeTree, kind: type[PlanT], node: int, target: Tier, found: Any
) -> PlanT | None:
    """The plan that the core has made, with its pins; None if it found nothing to copy."""
    if found is None:
        tree.log.add(kinds.NOTHING, target, int(node))
        return None
    plan_id, node, rows, pins = found
    spans = tuple(Span(*row) for row in rows)
    receipts = tuple(Pin(pin, node, Tier(tier), counts) for pin, tier, counts in pins)
    tree._receipts.update((receipt.id, receipt) for receipt in receipts)
    plan = kind(plan_id, node, target, spans, tree._names, receipts)
    tree._plans[plan.id] = plan
    tree.log.add(kinds.BEGIN, target, node, tuple(plan.num_pages.values()), plan.id)
    return plan


def commit(
    tree: NativeTree, plan: TransferPlan, kind: type[PlanT], pages: Mapping[str, Sequence[int]]
) -> dict[str, list[int]]:
    """Attach `pages`, by component in span order; returns those that were not needed."""
    _check_open(tree, plan, kind)
    unused = tree._core.commit(plan.id, pages)
    _close(tree, plan)
    tree.log.add(kinds.COMMIT, plan.id, tuple(map(len, unused.values())))
    return unused


def abort(tree: NativeTree, plan: TransferPlan, kind: type[PlanT]) -> None:
    """Unpin what the plan pinned; nothing is attached."""
    _check_open(tree, plan, kind)
    tree._core.abort(plan.id)
    _close(tree, plan)
    tree.log.add(kinds.ABORT, plan.id)


def _check_open(tree: NativeTree, plan: TransferPlan, kind: type[PlanT]) -> None:
    tree._core.guard()
    transfer.check_open(tree._plans, plan, kind)


def _close(tree: NativeTree, plan: TransferPlan) -> None:
    del tree._plans[plan.id]
    for receipt in plan.receipts:
        del tree._receipts[receipt.id]
