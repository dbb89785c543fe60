"""The NCCL step of `make gpu`, on emulated GPUs and a fake libnccl: nothing of it can rot."""

import sys

import pytest
from nccl_world import World, in_threads

from benchmarks import gpu_nccl
from hicache_ext.agreement import Reduction


@pytest.fixture
def world(tmp_path):
    with World(tmp_path) as made:
        yield made


def pinned_by(world, kept):
    import numpy as np

    def pinned(num_bytes):
        array = np.zeros(num_bytes, np.uint8)
        world.cuda.register_host(array.ctypes.data, array.nbytes)
        kept.append(array)
        return array

    return pinned


@pytest.mark.parametrize("reduction", [Reduction.ALL_REDUCE, Reduction.ALL_GATHER])
def test_ticks_of_two_ranks_are_the_min_of_both(world, reduction) -> None:
    groups = world.groups(2, schema=gpu_nccl.SCHEMA, reduction=reduction)
    taken = in_threads([lambda g=group: gpu_nccl.time_ticks(g, 20) for group in groups])
    assert all(seconds > 0 for seconds in taken), taken


def test_replays_carry_the_records_of_their_time(world) -> None:
    place, kept = world.place(), []
    (group,) = world.groups(1, schema=gpu_nccl.SCHEMA, **place)
    records = gpu_nccl.Records(pinned_by(world, kept))
    world.nccl.captures = True
    world.cuda.begin_capture(place["stream"])
    group.issue_records(*records.addresses)
    world.cuda.end_capture(place["stream"])

    def launch() -> None:
        world.cuda.replay(place["stream"])

    assert gpu_nccl.time_replays(group, records, launch, 10) > 0
    records.say = lambda epoch, num_pages: None  # type: ignore[method-assign]  # what was last said
    with pytest.raises(SystemExit, match="rank 0, replay 0: slot 0 is AgreedSlot"):
        gpu_nccl.time_replays(group, records, launch, 1)
    group.close()


def test_a_wrong_lane_ends_it(world, monkeypatch) -> None:
    (group,) = world.groups(1, schema=gpu_nccl.SCHEMA)
    honest, num_calls = gpu_nccl.said, [0]

    def lies(rank, epoch):
        num_calls[0] += 1
        lanes = honest(rank, epoch)
        lanes[3] += num_calls[0] == 6  # what is expected of the third tick
        return lanes

    monkeypatch.setattr(gpu_nccl, "said", lies)
    with pytest.raises(SystemExit, match=r"rank 0, tick 2: lanes \[3\] are not the MIN"):
        gpu_nccl.time_ticks(group, 5)


def test_one_rank_that_fails_fails_the_step() -> None:
    def script(rank, store):
        return [sys.executable, "-c", f"import sys; print('rank {rank}'); sys.exit({rank} == bad)"]

    for bad, outcome in ((None, (True, "rank 0")), (1, (False, "rank 1"))):

        def command(rank, store, bad=bad):
            *start, text = script(rank, store)
            return [*start, text.replace("bad", str(bad))]

        assert gpu_nccl.run_ranks(command, 2) == outcome
