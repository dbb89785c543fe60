"""Insert of device pages: what a request has computed becomes part of the tree.

    ids[full]   10 11 | 12 13 14 15      on the path: A (2 pages, on the host only), then nothing
    ids[swa]    -1 -1 | -1 -1 24 25      -1: nothing to hand over (outside of the window)

    A gets 10 11 back on the device. The tail becomes two nodes, [12 13] without SWA and [14 15]
    with 24 25: a node holds SWA pages for all of its tokens or for none.

Everything is checked before anything is changed.
"""

from __future__ import annotations

import operator
from collections.abc import Mapping, Sequence
from itertools import pairwise

from hicache_ext.errors import TreeError
from hicache_ext.tier import Tier
from hicache_ext.tree import kinds
from hicache_ext.tree.match import walk, walk_and_split, whole_pages
from hicache_ext.tree.node import Node, path
from hicache_ext.tree.pages import HOLE, checked_ids, foreign
from hicache_ext.tree.results import InsertResult
from hicache_ext.tree.split import split
from hicache_ext.tree.state import TreeState

Ids = list[list[int]]  # by component, one id per page
_PRIORITY_LIMIT = 1 << 31


def insert(
    state: TreeState,
    tokens: object,
    pages: Mapping[str, Sequence[int]],
    namespace: bytes,
    priority: int,
) -> InsertResult:
    key = whole_pages(state, state.unit.key(tokens))
    num_pages = len(key) // state.page_bytes
    ids = _checked_pages(state, pages, num_pages)
    priority = _checked_priority(priority)
    known = state.find_root(namespace)
    _check_ownership(state, *(walk(state, known, key) if known else ([], 0)), ids)

    root = state.root(namespace)
    state.tick()
    released: dict[str, list[int]] = {component.name: [] for component in state.components}
    nodes = walk_and_split(state, root, key)
    num_present = _num_present(state, nodes)
    last = root
    for node in nodes:
        for piece in _cut_existing(state, node, ids):
            _overlay(state, piece, ids, released)
            state.refresh(piece)
        last = node
    for start, end in _pieces(state, ids, last.end, num_pages):
        last = state.add_child(last, key[start * state.page_bytes : end * state.page_bytes])
        _overlay(state, last, ids, released)
        state.refresh(last)
    state.touch(last)
    for used in path(last):
        used.num_hits = max(used.num_hits, 1)
        used.priority = max(used.priority, priority)
    size = state.page_size
    num_given = tuple(num_pages - row.count(HOLE) for row in ids)
    num_released = tuple(len(released[component.name]) for component in state.components)
    outcome = num_given, priority, last.id, num_present, num_released
    state.log.add(kinds.INSERT, num_pages * size, state.token_hash(key), *outcome)
    return InsertResult(last.id, num_pages * size, num_present * size, released)


def _checked_pages(state: TreeState, pages: Mapping[str, Sequence[int]], num_pages: int) -> Ids:
    """The ids by component; a component that is not named hands nothing over."""
    for name in pages:
        state.component(name)
    if state.base.name not in pages:
        raise TreeError(f"insert needs pages of {state.base.name!r}; got {sorted(pages)}")
    ids: Ids = []
    for component in state.components:
        what = f"insert, {component.name}"
        lowest = 0 if component.is_base else HOLE
        given = pages.get(component.name, [HOLE] * num_pages)
        ids.append(checked_ids(given, what, num_pages, lowest=lowest))
    return ids


def _checked_priority(priority: int) -> int:
    try:
        value = operator.index(priority)
    except TypeError:
        value = _PRIORITY_LIMIT
    if not -_PRIORITY_LIMIT <= value < _PRIORITY_LIMIT:
        raise TreeError(f"priority {priority!r} is no 32-bit integer")
    return value


def _check_ownership(state: TreeState, nodes: list[Node], matched: int, ids: Ids) -> None:
    """No id may be in the tree at another place, nor be handed over twice."""
    for component, row in zip(state.components, ids, strict=True):
        fresh: list[int] = []
        end = 0
        for node in nodes:
            value = node.parts[component.idx].pages[Tier.DEVICE]
            start, end = node.start, node.end if node is not nodes[-1] else node.start + matched
            if value is None:
                fresh.extend(page for page in row[start:end] if page >= 0)
            else:
                held = component.spread(value, node.num_pages)
                fresh.extend(foreign(row[start:end], held[: end - start]))
        fresh.extend(page for page in row[end:] if page >= 0)
        state.check_unowned(component, Tier.DEVICE, fresh)


def _num_present(state: TreeState, nodes: list[Node]) -> int:
    """Pages of the path whose base is on the device: a prefix, since a child never has what its
    parent lacks.
    """
    present = 0
    for node in nodes:
        if node.parts[state.base.idx].pages[Tier.DEVICE] is None:
            break
        present = node.end
    return present


def _cut_existing(state: TreeState, node: Node, ids: Ids) -> list[Node]:
    """Split `node` where a component that lacks pages there gets them for only a part; top-down
    pieces.
    """
    start, cuts = node.start, set[int]()
    for component, row in zip(state.components, ids, strict=True):
        if node.parts[component.idx].pages[Tier.DEVICE] is None:
            cuts.update(start + cut for cut in component.cuts(row[start : node.end]))
    pieces = []
    for cut in sorted(cuts):
        pieces.append(split(state, node, cut - node.start))
    return [*pieces, node]


def _pieces(state: TreeState, ids: Ids, start: int, end: int) -> list[tuple[int, int]]:
    """Divide the new pages [start, end) so that each piece has a value or none, per component, and
    that what an end there needs begins with a piece.
    """
    if start == end:
        return []
    cuts = {start, end}
    for component, row in zip(state.components, ids, strict=True):
        cuts.update(start + cut for cut in component.cuts(row[start:end]))
        begin = end - component.need(end)
        if start < begin and row[begin - 1] >= 0:
            cuts.add(begin)  # what is before the window can go alone, and no lock keeps it
    borders = sorted(cuts)
    return list(pairwise(borders))


def _overlay(state: TreeState, node: Node, ids: Ids, released: dict[str, list[int]]) -> None:
    """Give `node` what it lacks of its run of ids, the base first; the rest goes back to the
    caller.
    """
    for component, row in zip(state.components, ids, strict=True):
        run = row[node.start : node.end]
        value = component.value(run)
        if value is not None and state.can_attach(node, component, Tier.DEVICE):
            state.attach(node, component, Tier.DEVICE, value)
        held = node.parts[component.idx].pages[Tier.DEVICE]
        if held is None:
            released[component.name].extend(page for page in run if page >= 0)
        else:
            released[component.name].extend(foreign(run, component.spread(held, len(run))))
