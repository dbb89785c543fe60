"""Backup (device to host) and load-back (host to device), in two steps around a copy that takes
time.

begin   lists what is missing on the target tier, pins the nodes and returns a plan commit  attaches
the target pages that the caller filled; what somebody else attached meanwhile goes back abort
only takes the pins away

Between begin and commit the nodes of a plan may be split, inserted under and locked, but not
evicted. A span names its node by id: after splits that is the last fragment, and the others lie
above it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeVar

from hicache_ext.errors import TreeError
from hicache_ext.tier import Tier
from hicache_ext.tree import kinds
from hicache_ext.tree.components.base import VIEW_ALL, VIEW_ANY
from hicache_ext.tree.lock import acquire, release
from hicache_ext.tree.node import Node, path, suffix
from hicache_ext.tree.pages import checked_ids
from hicache_ext.tree.results import BackupPlan, LoadBackPlan, Pin, Span, TransferPlan
from hicache_ext.tree.split import split
from hicache_ext.tree.state import TreeState

PlanT = TypeVar("PlanT", bound=TransferPlan)


def begin_backup(
    state: TreeState, node_id: int, last: int | None, min_hits: int
) -> BackupPlan | None:
    """Everything on the path of `node_id` that the device has and the host has not."""
    node = state.get(node_id)
    spans = []
    pinned = [0 for _ in state.components]  # pages back from the end of node, by component
    for above in _to_back_up(state, node, last, min_hits):
        for component in state.components:
            device, host = above.parts[component.idx].pages
            if device is not None and host is None:
                spans.append(Span(above.id, component.name, above.num_pages, list(device)))
                pinned[component.idx] = max(pinned[component.idx], node.end - above.start)
    if not spans:
        state.log.add(kinds.NOTHING, Tier.HOST, node.id)
        return None
    pinned[state.base.idx] = node.end
    receipts = (acquire(state, node, Tier.DEVICE, pinned, Pin),)
    return _opened(state, BackupPlan(*_plan_fields(state, node, Tier.HOST, spans, receipts)))


def _to_back_up(state: TreeState, node: Node, last: int | None, min_hits: int) -> list[Node]:
    """The nodes that a backup is to look at, root-first; TreeError if they would leave a gap."""
    if last is not None and last < 0:
        raise TreeError(f"backup of the last {last} pages of node {node.id}")
    nodes = path(node) if last is None else suffix(node, last)[::-1]
    if nodes and not state.can_hang_on_host(nodes[0].parent):
        above = nodes[0].parent.id
        raise TreeError(f"the host has no pages of node {above}, so none below it may go there")
    # Hits grow upwards: what has enough of them begins at the root.
    return [above for above in nodes if above.num_hits >= min_hits]


def begin_load_back(state: TreeState, node_id: int) -> LoadBackPlan | None:
    """What `node_id` lacks on the device to be the end of a device match; TreeError if the host
    lacks it too.
    """
    node = state.get(node_id)
    _check_restorable(state, node)
    _cut_windows(state, node)
    reach = state.reach(node)
    spans = []
    for above in path(node):
        for component in state.components:
            device, host = above.parts[component.idx].pages
            is_needed = above.end > node.end - reach[component.idx]
            if is_needed and device is None and host is not None:
                spans.append(Span(above.id, component.name, above.num_pages, list(host)))
    if not spans:
        state.log.add(kinds.NOTHING, Tier.DEVICE, node.id)
        return None
    tiers = (Tier.DEVICE, Tier.HOST)
    receipts = tuple(acquire(state, node, tier, reach, Pin) for tier in tiers)
    return _opened(state, LoadBackPlan(*_plan_fields(state, node, Tier.DEVICE, spans, receipts)))


def _check_restorable(state: TreeState, node: Node) -> None:
    """TreeError unless a match may end at `node`: then the two tiers have all that it needs."""
    for component in state.components:
        gate, views = component.gate(), VIEW_ALL
        for above in path(node):
            views = gate.step(above)
        if views & VIEW_ANY:
            continue
        needed = suffix(node, component.need(node.end))
        missing = [part for part in needed if not component.can_end(part)]
        lowest = missing[0] if missing else node
        first, end = lowest.start * state.page_size, lowest.end * state.page_size
        raise TreeError(
            f"node {node.id} cannot be loaded back: its {component.name} pages at tokens "
            f"{first}..{end} are on no tier"
        )


def _cut_windows(state: TreeState, node: Node) -> None:
    """Split the host pages that begin before what `node` needs, so that no more is loaded."""
    for component in state.components:
        num_pages = component.need(node.end)
        nodes = suffix(node, num_pages)
        if not nodes:
            continue
        first, cut = nodes[-1], node.end - num_pages - nodes[-1].start
        device, host = first.parts[component.idx].pages
        if cut > 0 and device is None and host is not None and component.divide(host, cut)[0]:
            state.refresh(split(state, first, cut))


def commit(
    state: TreeState,
    plan: TransferPlan,
    kind: type[TransferPlan],
    target_pages: Mapping[str, Sequence[int]],
) -> dict[str, list[int]]:
    """Attach `target_pages`, by component in span order; returns those that were not needed."""
    check_open(state.plans, plan, kind)
    ids = _checked_targets(state, plan, target_pages)
    unused: dict[str, list[int]] = {component.name: [] for component in state.components}
    taken = {name: 0 for name in ids}
    for span in plan.spans:
        name, first = span.component, taken[span.component]
        taken[name] = first + len(span.pages)
        _attach_span(state, plan.target, span, ids[name][first : taken[name]], unused[name])
    _close(state, plan)
    state.log.add(kinds.COMMIT, plan.id, tuple(len(pages) for pages in unused.values()))
    return unused


def abort(state: TreeState, plan: TransferPlan, kind: type[TransferPlan]) -> None:
    """Unpin what the plan pinned; nothing is attached."""
    check_open(state.plans, plan, kind)
    _close(state, plan)
    state.log.add(kinds.ABORT, plan.id)


def _plan_fields(
    state: TreeState, node: Node, target: Tier, spans: list[Span], receipts: tuple[Pin, ...]
) -> tuple[int, int, Tier, tuple[Span, ...], tuple[str, ...], tuple[Pin, ...]]:
    names = tuple(component.name for component in state.components)
    return state.next_ticket, node.id, target, tuple(spans), names, receipts


def _opened(state: TreeState, plan: PlanT) -> PlanT:
    state.plans[plan.id] = plan
    state.next_ticket += 1
    state.digest.opened(plan)
    num_pages = tuple(plan.num_pages.values())
    state.log.add(kinds.BEGIN, plan.target, plan.node, num_pages, plan.id)
    return plan


def check_open(
    plans: Mapping[int, TransferPlan], plan: TransferPlan, kind: type[TransferPlan]
) -> None:
    """TreeError unless `plan` is one of these, the tree's that are neither committed nor aborted,
    and of that kind.
    """
    if not isinstance(plan, kind) or plans.get(plan.id) is not plan:
        name = f"{type(plan).__name__} {getattr(plan, 'id', None)}"
        raise TreeError(f"{name} is no open {kind.__name__} of this tree")


def _close(state: TreeState, plan: TransferPlan) -> None:
    del state.plans[plan.id]
    state.digest.closed(plan)
    for receipt in plan.receipts:
        release(state, receipt)


def _checked_targets(
    state: TreeState, plan: TransferPlan, target_pages: Mapping[str, Sequence[int]]
) -> dict[str, list[int]]:
    ids = {}
    for name in target_pages:
        state.component(name)
    for name, count in plan.num_pages.items():
        what = f"plan {plan.id}, {name} {plan.target.name.lower()} pages"
        ids[name] = checked_ids(target_pages.get(name, []), what, count, lowest=0)
        state.check_unowned(state.component(name), plan.target, ids[name])
    return ids


def _attach_span(
    state: TreeState, target: Tier, span: Span, pages: list[int], unused: list[int]
) -> None:
    component = state.component(span.component)
    pieces: list[tuple[Node, list[int]]] = []
    rest: list[int] | None = pages
    node, num_rest = state.get(span.node), span.num_pages
    while rest is not None:  # bottom-up over the fragments
        num_above = num_rest - node.num_pages
        mine: list[int] | None = rest
        rest = None
        if num_above:
            rest, mine = component.divide(mine or [], num_above)
        if mine is not None:
            pieces.append((node, mine))
        node, num_rest = node.parent, num_above
    for piece, value in reversed(pieces):  # root-first: a base needs its parent's
        if state.can_attach(piece, component, target):
            state.attach(piece, component, target, value)
            state.refresh(piece)
        else:
            unused.extend(value)
