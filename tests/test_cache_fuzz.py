"""Random traffic on 1 to 3 simulated ranks with failing stores: trees stay equal, bytes right.

The model is simple: every page of a key has known bytes (`page_content`). Whatever a match returns
on the device must hold them, after any mix of prefill, prefetch, loss, abort, eviction, flush and
close. I/O and copies take time, another on each rank, and fail on one rank alone.
A failing seed is printed; HICACHE_FUZZ_SEED=n replays it alone.
"""

from __future__ import annotations

import os

import pytest
from ranks import Rank, page_content
from stream_copies import StreamCopies, stream_copies
from traffic import Traffic

NUM_SEQUENCES = 60
NUM_STEPS = 60


def run_seed(
    seed: int, num_steps: int = NUM_STEPS, on_streams: StreamCopies | None = None
) -> Traffic:
    traffic = Traffic(seed, on_streams)
    try:
        for _ in range(num_steps):
            traffic.step()
        traffic.finish()
    except BaseException:
        print(f"\nHICACHE_FUZZ_SEED={seed} replays this")
        raise
    return traffic


def run_on_streams(seed: int) -> StreamCopies:
    with stream_copies(seed) as copies:
        run_seed(seed, on_streams=copies)
    return copies


def seeds(num: int) -> list[int]:
    fixed = os.environ.get("HICACHE_FUZZ_SEED")
    return [int(fixed)] if fixed else list(range(num))


def test_random_traffic() -> None:
    totals: dict[str, int] = {}
    for seed in seeds(NUM_SEQUENCES):
        for rank in run_seed(seed).ranks:
            for key, num in rank.cache.stats.num_outcomes.items():
                totals[key] = totals.get(key, 0) + num
    if not os.environ.get("HICACHE_FUZZ_SEED"):
        # The fuzz must go where the trouble is, or it proves nothing.
        for key in ("prefetch.committed", "prefetch.miss", "prefetch.capacity", "prefetch.aborted"):
            assert totals.get(key, 0) > 5, (key, totals)
        for key in ("backup.committed", "backup.capacity", "backup.failed"):
            assert totals.get(key, 0) > 5, (key, totals)
        for key in ("loadback.committed", "loadback.capacity", "prefetch.dropped"):
            assert totals.get(key, 0) > 5, (key, totals)


def test_random_traffic_with_copies_on_streams() -> None:
    """As on a GPU: the real tickets, and pages that come back while copies are under way."""
    num_late = num_waits = 0
    for seed in seeds(20):
        copies = run_on_streams(seed)
        num_late += copies.num_late
        num_waits += copies.num_waits
    if not os.environ.get("HICACHE_FUZZ_SEED"):
        assert num_late > 1000, "the copies were over before anybody could be in their way"
        assert num_waits > 100, "nobody was in the way of a copy"


@pytest.mark.long
@pytest.mark.parametrize("first_seed", range(0, 2000, 100))
def test_random_traffic_long(first_seed: int) -> None:
    for seed in range(first_seed, first_seed + 100):
        run_seed(seed)
        run_on_streams(seed)


def test_rank_is_used() -> None:
    """The helper that fills stores for the tests really differs by rank and pool."""
    assert page_content(0, "full", b"k", 64) != page_content(1, "full", b"k", 64)
    assert page_content(0, "full", b"k", 64) != page_content(0, "swa", b"k", 64)
    assert isinstance(Rank, type)
