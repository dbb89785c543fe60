"""Runs the chat workload on a tree with its pools, and times each call by the CPU clock.

What a scheduler does for a request: match the prompt but its last token, lock what was found, list
its pages, make room, take new pages, insert the whole, unlock. Freed pages go back to their ledger
inside of `evict` and `insert`. Keys are packed before the clock starts and new pages are taken
outside of it, as the peer's figures were taken; it lists token indices where we list page ids.
"""

from __future__ import annotations

import gc
import inspect
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum
from statistics import median
from typing import Any

from benchmarks.tree_workload import ChatWorkload, Request
from hicache_ext.allocator import PageAllocator, PageState
from hicache_ext.keys import token_hash
from hicache_ext.tier import Tier
from hicache_ext.tree.components import Component, Full, Swa
from hicache_ext.tree.radix import RadixTree

OPS = ("match", "indices", "lock", "insert", "evict", "unlock")
CAPACITY_TOKENS = 4_000_000
WINDOW_TOKENS = 1024


class Kind(Enum):
    """Which caches the model has."""

    FULL = "FULL"
    FULL_SWA = "FULL+SWA"

    def components(self) -> list[Component]:
        return [Full()] if self is Kind.FULL else [Full(), Swa(WINDOW_TOKENS)]


HAS_NATIVE = "core" in inspect.signature(RadixTree.__init__).parameters
CORES = ("native", "python") if HAS_NATIVE else ("python",)


def make_tree(kind: Kind, page_size: int, core: str) -> RadixTree:
    chosen: dict[str, Any] = {"core": core} if HAS_NATIVE else {}
    return RadixTree(page_size, kind.components(), token_hash=token_hash, **chosen)


@dataclass
class ChatResult:
    """What one pass took; times are CPU seconds of this thread."""

    times_s: dict[str, list[float]] = field(default_factory=lambda: {op: [] for op in OPS})
    num_hit_tokens: int = 0

    @property
    def total_s(self) -> float:
        return sum(map(sum, self.times_s.values()))

    def median_us(self, op: str) -> float:
        """StatisticsError if there was no such call: then nothing was measured."""
        return median(self.times_s[op]) * 1e6


class TreeWithPools:
    """A tree and the page ledgers of its components; SWA has half of the tokens that FULL has."""

    def __init__(self, kind: Kind, page_size: int, core: str, capacity_tokens: int) -> None:
        self.page_size = page_size
        self.tree = make_tree(kind, page_size, core)
        num_pages = capacity_tokens // page_size
        self.pools = {
            component.name: PageAllocator(
                num_pages if component.is_base else num_pages // 2, component.name
            )
            for component in self.tree.components
        }

    def shortage(self, num_pages: int) -> dict[str, int]:
        """What each pool lacks of so many pages; empty if none lacks any."""
        lacks = {name: num_pages - pool.num_free for name, pool in self.pools.items()}
        return {name: lack for name, lack in lacks.items() if lack > 0}

    def evict(self, num_pages: dict[str, int]) -> None:
        for name, ids in self.tree.evict(Tier.DEVICE, num_pages).device.items():
            self.pools[name].free(ids)

    def take(self, num_pages: int, path: list[int]) -> dict[str, list[int]]:
        """Ids for a whole sequence: the path that was found, and `num_pages` new ones behind it."""
        rows = {}
        for name, pool in self.pools.items():
            ids = pool.alloc(num_pages, PageState.ATTACHED)
            assert ids is not None, f"{name}: {num_pages} pages of {pool.num_free}"
            rows[name] = (path if name == "full" else [-1] * len(path)) + ids
        return rows

    def insert(self, key: bytes, rows: dict[str, list[int]]) -> None:
        for name, ids in self.tree.insert(key, rows).released.items():
            if ids:
                self.pools[name].free(ids)


def run_chats(
    workload: ChatWorkload,
    kind: Kind,
    page_size: int,
    core: str,
    capacity_tokens: int = CAPACITY_TOKENS,
) -> ChatResult:
    """One pass over all requests with an empty tree."""
    cache = TreeWithPools(kind, page_size, core, capacity_tokens)
    result = ChatResult()
    gc.collect()
    for request in workload.requests:
        _run_request(cache, workload, request, result)
    return result


def _run_request(
    cache: TreeWithPools, workload: ChatWorkload, request: Request, result: ChatResult
) -> None:
    tree, page_size, times_s = cache.tree, cache.page_size, result.times_s

    def clocked(op: str, call: Callable[..., Any], *args: Any) -> Any:
        start = time.thread_time_ns()
        value = call(*args)
        times_s[op].append((time.thread_time_ns() - start) / 1e9)
        return value

    num_whole = request.num_tokens // page_size * page_size
    prompt = workload.key(request.chat_idx, request.num_prompt_tokens - 1)
    whole = workload.key(request.chat_idx, num_whole)
    found = clocked("match", tree.match_prefix, prompt)
    node, num_hit = found.device_node, found.num_device_tokens
    receipt = clocked("lock", tree.lock, node)
    path = clocked("indices", tree.path_pages, node, "full", Tier.DEVICE)
    num_new = (num_whole - num_hit) // page_size
    if lacks := cache.shortage(num_new):
        clocked("evict", cache.evict, lacks)
    clocked("insert", cache.insert, whole, cache.take(num_new, path))
    clocked("unlock", tree.unlock, receipt)
    result.num_hit_tokens += num_hit
