"""Store calls of a bounded size: several pools in one where they are small, one pool in several."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from hicache_ext.storage.several import PoolBatch


def steps_of(groups: Sequence[Sequence[PoolBatch]], most_bytes: int) -> Iterator[list[PoolBatch]]:
    """The batches in their order, as steps of at most `most_bytes`, or of one page.

    The batches of a group have the same keys, and go on together: a step has the same part of
    each. Batches without keys are in no step.
    """
    step: list[PoolBatch] = []
    num_left = most_bytes
    for group in groups:
        page_bytes = sum(batch.pages[0].nbytes for batch in group if batch.pages)
        num_keys = len(group[0].keys)
        start = 0
        while start < num_keys:
            num_pages = min(num_keys - start, num_left // page_bytes)
            if step and num_pages < 1:
                yield step
                step, num_left = [], most_bytes
                continue
            end = start + max(1, num_pages)
            part = slice(start, end)
            step += [PoolBatch(b.pool, b.keys[part], b.pages[part]) for b in group]
            num_left -= page_bytes * (end - start)
            start = end
    if step:
        yield step
