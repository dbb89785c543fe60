"""Graft of pages that came from storage: host pages of the base below an anchor.

anchor ── A (device and host) ── B (device only) ── nothing          span: A, B and two pages more

A has its host pages: the span's go back. B gets a host copy. The rest becomes a node that is on the
host only. Windows come after it, by window().
"""

from __future__ import annotations

from collections.abc import Sequence

from hicache_ext.errors import TreeError
from hicache_ext.tier import Tier
from hicache_ext.tree import kinds
from hicache_ext.tree.match import walk, walk_and_split, whole_pages
from hicache_ext.tree.node import Node
from hicache_ext.tree.pages import checked_ids, foreign
from hicache_ext.tree.results import InsertHostResult
from hicache_ext.tree.state import TreeState


def insert_host(
    state: TreeState,
    anchor_id: int,
    tokens: object,
    full_pages: Sequence[int],
    namespace: bytes | None,
) -> InsertHostResult:
    anchor = state.get(anchor_id)
    if namespace is not None and namespace != anchor.namespace:
        raise TreeError(
            f"anchor {anchor_id} is in namespace {anchor.namespace!r}, the span in {namespace!r}"
        )
    key = whole_pages(state, state.unit.key(tokens))
    num_pages = len(key) // state.page_bytes
    ids = checked_ids(full_pages, f"insert_host, {state.base.name}", num_pages, lowest=0)
    _check_ownership(state, anchor, *walk(state, anchor, key), ids)

    state.tick()
    total = num_pages * state.page_size
    given = anchor.id, total, state.token_hash(key)
    if not state.can_hang_on_host(anchor):
        # Host pages below a parent without would be a hole in every later restore of the path.
        state.log.add(kinds.DROPPED, *given)
        return InsertHostResult(None, total, 0, ids)
    released: list[int] = []
    num_present = 0
    last, start = anchor, anchor.end
    for node in walk_and_split(state, anchor, key):
        run = ids[node.start - start : node.end - start]
        held = node.parts[state.base.idx].pages[Tier.HOST]
        if held is None:
            state.attach(node, state.base, Tier.HOST, run)
            state.refresh(node)
        else:
            released.extend(foreign(run, held))
            if num_present == node.start - start:
                num_present = node.end - start
        last = node
    tail = key[(last.end - start) * state.page_bytes :]
    if tail:
        run = ids[last.end - start :]
        last = state.add_child(last, tail)
        state.attach(last, state.base, Tier.HOST, run)
    state.touch(last)
    state.refresh(last)
    state.log.add(kinds.INSERT_HOST, *given, last.id, num_present, len(released))
    return InsertHostResult(last.id, total, num_present * state.page_size, released)


def _check_ownership(
    state: TreeState, anchor: Node, nodes: list[Node], matched: int, ids: list[int]
) -> None:
    """No id may be in the tree at another place, nor be handed over twice."""
    fresh: list[int] = []
    start = end = anchor.end
    for node in nodes:
        end = node.end if node is not nodes[-1] else node.start + matched
        run = ids[node.start - start : end - start]
        held = node.parts[state.base.idx].pages[Tier.HOST]
        fresh.extend(run if held is None else foreign(run, held[: len(run)]))
    fresh.extend(ids[end - start :])
    state.check_unowned(state.base, Tier.HOST, fresh)
