"""Random traffic with copies on streams, as on a GPU: real layouts, kernels and tickets, and pages
that come back while copies read and write them. What the ranks agree on: see test_sim.

Every page of a key has known bytes (`page_content`): whatever a match returns on the device must
hold them. A failing seed is printed; HICACHE_FUZZ_SEED=n replays it alone.
"""

from __future__ import annotations

import os

import pytest
from stream_copies import StreamCopies, stream_copies
from traffic import Traffic

NUM_STEPS = 60


def run_seed(seed: int) -> tuple[StreamCopies, Traffic]:
    with stream_copies(seed) as copies:
        try:
            traffic = Traffic(seed, copies)
            for _ in range(NUM_STEPS):
                traffic.step()
            traffic.finish()
        except BaseException:
            print(f"\nHICACHE_FUZZ_SEED={seed} replays this")
            raise
    return copies, traffic


def test_random_traffic_with_copies_on_streams() -> None:
    fixed = os.environ.get("HICACHE_FUZZ_SEED")
    runs = [run_seed(seed) for seed in ([int(fixed)] if fixed else range(20))]
    if not fixed:
        num_late = sum(copies.num_late for copies, _ in runs)
        num_waits = sum(copies.num_waits for copies, _ in runs)
        aborted_in = {phase for _, traffic in runs for phase in traffic.aborted_in}
        assert num_late > 1000, "the copies were over before anybody could be in their way"
        assert num_waits > 100, "nobody was in the way of a copy"
        assert sum(traffic.retraction.num_restored for _, traffic in runs) > 2
        assert aborted_in >= {"QUERY", "RESERVE", "READ", "DRAIN"}, aborted_in


@pytest.mark.long
@pytest.mark.parametrize("first_seed", range(0, 2000, 100))
def test_random_traffic_long(first_seed: int) -> None:
    for seed in range(first_seed, first_seed + 100):
        run_seed(seed)
