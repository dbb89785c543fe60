"""Prompts, filled stores and prefetches for the tests of the window commit."""

from __future__ import annotations

from ranks import PAGE_SIZE, Rank, Ranks

from hicache_ext.flow.record import PrefetchRecord
from hicache_ext.keys import page_keys
from hicache_ext.match import Match
from hicache_ext.pool import PageState
from hicache_ext.tree.key import pack_tokens

W = 3  # window pages: ceil(10 / 4)


def make_tokens(num_pages: int, start: int = 100) -> list[int]:
    """Whole pages, and the one token more that a prompt always leaves to compute."""
    return list(range(start, start + num_pages * PAGE_SIZE + 1))


def keys_of(tokens: list[int]) -> list[bytes]:
    return page_keys(pack_tokens(tokens[: len(tokens) // PAGE_SIZE * PAGE_SIZE]), PAGE_SIZE, b"")


def fill_stores(ranks: Ranks, tokens: list[int]) -> list[bytes]:
    keys = keys_of(tokens)
    for rank in ranks:
        rank.put("full", keys)
        rank.put("swa", keys)
    return keys


def prefetch(ranks: Ranks, tokens: list[int]) -> list[PrefetchRecord]:
    """One prefetch on all ranks, to its end; the record of each rank."""
    op_ids = ranks.each(lambda r: r.cache.prefetch(tokens))
    assert op_ids[0] is not None and len(set(op_ids)) == 1
    records = [mine[-1] for mine in ranks.drain()]
    assert all(isinstance(record, PrefetchRecord) for record in records)
    return records  # type: ignore[return-value]


def prefill(rank: Rank, num_pages: int, start: int = 0) -> Match:
    """One request that computes `num_pages` pages; its match is held."""
    tokens = list(range(start, start + num_pages * PAGE_SIZE))
    match = rank.cache.match(tokens)
    num_done = len(match.pages["full"])
    new = rank.cache.alloc({name: num_pages - num_done for name in rank.device})
    assert new is not None
    rank.write_device(tokens, {name: [-1] * num_done + ids for name, ids in new.items()})
    rank.cache.insert(match, tokens, {name: match.pages[name] + new[name] for name in new})
    return match


def hit_pages(ranks: Ranks, tokens: list[int]) -> int:
    """What a request would match, equal on all ranks; also checks the restored bytes."""
    matches = ranks.each(lambda r: r.cache.match(tokens[:-1]))
    ranks.each(lambda r: r.check_host(tokens[:-1]))
    for rank, match in zip(ranks, matches, strict=True):
        rank.cache.release(match)
    counts = {match.num_tokens // PAGE_SIZE for match in matches}
    assert len(counts) == 1
    ranks.check_idle()
    return counts.pop()


def num_attached(ranks: Ranks, pool: str) -> set[int]:
    return {r.host[pool].allocator.counts()[PageState.ATTACHED] for r in ranks}
