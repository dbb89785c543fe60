"""Single questions about a tree: a long prompt, growth, memory; and about the page ledger. Times
are CPU seconds of this thread.
"""

from __future__ import annotations

import gc
import hashlib
import multiprocessing
import os
import random
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.tree_chat import Kind, make_tree
from benchmarks.tree_workload import TOKEN_BYTES
from hicache_ext.allocator import PageAllocator
from hicache_ext.tier import Tier
from hicache_ext.tree.radix import RadixTree

PAGE_SIZE = 16
PAGE_BYTES = PAGE_SIZE * TOKEN_BYTES
LONG_TOKENS = 131_072


def times(taken_s: list[float], call: Callable[[], Any]) -> Any:
    """What `call` returns; adds what it took."""
    start = time.thread_time_ns()
    value = call()
    taken_s.append((time.thread_time_ns() - start) / 1e9)
    return value


def long_prompt(core: str, num_nodes: int, num_rounds: int) -> dict[str, float]:
    """Medians of a prompt of 128k tokens that is cached in `num_nodes` nodes of equal length."""
    tokens = random.Random(num_nodes).randbytes(LONG_TOKENS * TOKEN_BYTES)
    num_pages = LONG_TOKENS // PAGE_SIZE
    tree, ids = make_tree(Kind.FULL, PAGE_SIZE, core), list(range(num_pages))
    for end in range(num_pages // num_nodes, num_pages + 1, num_pages // num_nodes):
        tree.insert(tokens[: end * PAGE_BYTES], {"full": ids[:end]})
    node = tree.match_prefix(tokens).node
    assert tree.num_tokens(node) == LONG_TOKENS
    times_s: dict[str, list[float]] = {"match": [], "lock": [], "insert": []}
    for _ in range(num_rounds):
        times(times_s["match"], lambda: tree.match_prefix(tokens))
        receipt = times(times_s["lock"], lambda: tree.lock(node))
        tree.unlock(receipt)
        times(times_s["insert"], lambda: tree.insert(tokens, {"full": ids}))
    return {op: median(values) for op, values in times_s.items()}


class Forest:
    """Prompts of four pages in nodes of two: each eight share their first node."""

    def __init__(self, core: str, num_nodes: int) -> None:
        self.tree: RadixTree = make_tree(Kind.FULL, PAGE_SIZE, core)
        self.num_prompts = num_nodes * 8 // 9
        for prompt_idx in range(self.num_prompts):
            self.insert(*self.prompt(prompt_idx))

    def insert(self, key: bytes, ids: list[int]) -> None:
        self.tree.insert(key, {"full": ids})

    def prompt(self, prompt_idx: int) -> tuple[bytes, list[int]]:
        """Its tokens and its page ids, of which the first two are those of its neighbours."""
        group_idx, place = divmod(prompt_idx, 8)
        key = _random_pages(group_idx, -1) + _random_pages(group_idx, place)
        first = group_idx * 18
        own = first + 2 + 2 * place
        return key, [first, first + 1, own, own + 1]

    def evict(self) -> int:
        """Gives up the coldest prompt's own node; returns which prompt that was."""
        pages = self.tree.evict(Tier.DEVICE, {"full": 2}).device["full"]
        assert len(pages) == 2 and pages[0] % 18 >= 2, pages
        return pages[0] // 18 * 8 + (pages[0] % 18 - 2) // 2


def _random_pages(group_idx: int, place: int) -> bytes:
    """Two pages that no other prompt has."""
    parts = (b"%d %d %d" % (group_idx, place, page_idx) for page_idx in range(2))
    return b"".join(hashlib.blake2b(part, digest_size=PAGE_BYTES).digest() for part in parts)


def grown(core: str, num_nodes: int, num_rounds: int) -> dict[str, float]:
    """Medians of the calls on a tree of so many nodes, at random places; it keeps its size."""
    forest, rng = Forest(core, num_nodes), random.Random(1)
    tree = forest.tree
    times_s: dict[str, list[float]] = {op: [] for op in ("match", "lock", "evict", "insert")}
    gc.collect()
    gc.freeze()  # a collection would be a matter of how many objects there are, not of the call
    for _ in range(num_rounds):
        key, _ = forest.prompt(rng.randrange(forest.num_prompts))
        node = times(times_s["match"], lambda key=key: tree.match_prefix(key)).node
        times(times_s["lock"], lambda node=node: tree.unlock(tree.lock(node)))
        coldest = times(times_s["evict"], forest.evict)
        key, ids = forest.prompt(coldest)
        times(times_s["insert"], lambda key=key, ids=ids: forest.insert(key, ids))
    gc.unfreeze()
    return {op: median(values) for op, values in times_s.items()}


def bytes_per_node(core: str, num_nodes: int) -> float:
    """Of a tree with edges of two pages, in a process of its own: RSS counts native memory, too."""
    return _grown_rss(lambda: Forest(core, num_nodes)) / num_nodes


def bytes_per_token(core: str, num_tokens: int) -> float:
    """Of a tree of prompts of 32k tokens in one node each."""

    def build() -> RadixTree:
        tree, prompt_tokens = make_tree(Kind.FULL, PAGE_SIZE, core), 32_768
        num_pages = prompt_tokens // PAGE_SIZE
        for first in range(0, num_tokens // PAGE_SIZE, num_pages):
            key = random.Random(first).randbytes(prompt_tokens * TOKEN_BYTES)
            tree.insert(key, {"full": range(first, first + num_pages)})
        return tree

    return _grown_rss(build) / num_tokens


def _grown_rss(build: Callable[[], object]) -> int:
    gc.collect()
    before = _rss_bytes()
    built = build()
    gc.collect()
    grown_bytes = _rss_bytes() - before
    del built
    return grown_bytes


def _rss_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def in_own_process(measure: Callable[..., float], *args: object) -> float:
    """Calls a function of this module in a fresh process."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(measure, args)


def ledger(pool_tokens: int, num_rounds: int) -> dict[str, float]:
    """Medians of alloc and free of 1024 tokens at a pool of so many, in seconds per call."""
    pool = PageAllocator(pool_tokens // PAGE_SIZE, "full")
    held = [pool.alloc(64) or [] for _ in range(pool.num_free // 128)]
    random.Random(1).shuffle(held)  # half full, and what is freed lies anywhere
    times_s: dict[str, list[float]] = {"alloc": [], "free": []}
    for round_idx in range(num_rounds):
        ids = held[round_idx % len(held)]
        times(times_s["free"], lambda ids=ids: pool.free(ids))
        held[round_idx % len(held)] = times(times_s["alloc"], lambda: pool.alloc(64))
    return {op: median(values) for op, values in times_s.items()}
