"""What the tests of prefetches share."""

from __future__ import annotations

from ranks import PAGE_SIZE, Ranks

from hicache_ext.flow.prefetch_rules import Refusal
from hicache_ext.flow.record import Loss, PrefetchRecord


def ask(ranks: Ranks, tokens: list[int]) -> list[int | Refusal | None]:
    """The op id, or why there is none."""
    said = ranks.each(lambda r: r.cache.prefetch(tokens) or r.cache.refusal)
    assert len(set(said)) == 1
    return said[0]


def lost(record: PrefetchRecord) -> dict[Loss, int]:
    """Pages by reason; they and the others are the span."""
    found = {loss.why: loss.num_tokens // PAGE_SIZE for loss in record.losses}
    num_here = record.num_committed_tokens + record.num_present_tokens
    assert sum(found.values()) * PAGE_SIZE + num_here == record.num_span_tokens
    return found


def finish(ranks: Ranks) -> list[PrefetchRecord]:
    """Runs the I/O that tests keep waiting; the last record of each rank."""
    records = [[] for _ in ranks]
    while ranks[0].cache.num_in_flight:
        ranks.each(lambda r: r.io.run())
        for mine, new in zip(records, ranks.tick(), strict=True):
            mine += new
    return [mine[-1] for mine in records]
