"""What can be asked of a path without changing anything that others see."""

from __future__ import annotations

from hicache_ext.errors import TreeError
from hicache_ext.keys import KEY_BYTES
from hicache_ext.tier import Tier
from hicache_ext.tree.lock import check_tier
from hicache_ext.tree.node import path, suffix
from hicache_ext.tree.pages import HOLE
from hicache_ext.tree.results import PageCounts
from hicache_ext.tree.state import TreeState


def path_pages(
    state: TreeState, node_id: int, component_name: str, tier: Tier, last: int | None
) -> list[int]:
    node = state.get(node_id)
    component = state.component(component_name)
    tier = check_tier(tier)
    if last is not None and last < 0:
        raise TreeError(f"last={last} pages")
    count = node.end if last is None else min(last, node.end)
    ids: list[int] = []
    for part in reversed(suffix(node, count)):
        value = part.parts[component.idx].pages[tier]
        num_pages = part.num_pages
        ids.extend([HOLE] * num_pages if value is None else component.spread(value, num_pages))
    return ids[len(ids) - count :]


def page_counts(state: TreeState, tier: Tier, component_name: str) -> PageCounts:
    idx = state.component(component_name).idx
    num_protected = state.num_protected[idx][check_tier(tier)]
    return PageCounts(len(state.owned[idx][tier]) - num_protected, num_protected)


def keys(state: TreeState, node_id: int) -> list[bytes]:
    node = state.get(node_id)
    state.hash_path(node)
    chain = b"".join(part.hashes or b"" for part in path(node))
    return [chain[i : i + KEY_BYTES] for i in range(0, len(chain), KEY_BYTES)]
