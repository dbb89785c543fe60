"""NcclGroup.from_store(): ranks that meet over a store, and what becomes of their communicator."""

import threading
import time

import numpy as np
import pytest
from nccl_world import SCHEMA, World, in_threads
from torch.distributed import HashStore
from waiting import LONG_S, PATIENCE_S

from hicache_ext.agreement import NcclGroup, Reduction, TickSchema
from hicache_ext.errors import AgreementError, CudaError

LANES = np.arange(SCHEMA.num_lanes)


@pytest.fixture
def world(tmp_path):
    with World(tmp_path, seed=2) as world:
        yield world


def meet(world, store, size, ranks=None, schemas=(), deadline_s=PATIENCE_S):
    """The groups of `ranks` (None: all), or why there is none."""
    ranks = range(size) if ranks is None else ranks

    def make(rank):
        schema = schemas[rank] if schemas else SCHEMA
        options = {"reduction": Reduction.ALL_REDUCE, "deadline_s": deadline_s, **world.place()}
        return NcclGroup.from_store(schema, store, rank, size, **options)

    return in_threads([lambda rank=rank: make(rank) for rank in ranks])


def ends(world):
    return sorted(call for call in world.nccl.calls if call[0] in ("destroy", "abort"))


def tick(groups):
    for group in groups:
        group.issue(LANES + group.rank)
    return [group.result(5.0).tolist() for group in groups]


def test_ranks_meet_tick_and_destroy_their_communicator(world):
    store = HashStore()
    for _ in range(2):  # a store outlives its groups
        groups = meet(world, store, 2)
        assert [(group.rank, group.size) for group in groups] == [(0, 2), (1, 2)]
        assert tick(groups) == [LANES.tolist()] * 2
        world.nccl.calls.clear()
        for group in groups:
            group.close()
            group.close()
        assert ends(world) == [("destroy", 0), ("destroy", 1)]


def test_group_that_is_left_in_a_tick_aborts(world):
    first, second = meet(world, HashStore(), 2)
    first.issue(LANES)
    first.close()
    assert ends(world) == [("abort", 0)]
    del second  # nobody closes it: its communicator must not outlive it
    assert ends(world) == [("abort", 0), ("abort", 1)]


def test_communicator_of_somebody_else_is_never_ended(world):
    (group,) = world.groups(1)
    group.issue(LANES)
    group.close()
    del group
    assert ends(world) == []


@pytest.mark.parametrize(("absent", "named"), [([0], "[0]"), ([1], "[1]"), ([0, 2], "[0, 2]")])
def test_absent_ranks_are_named_within_the_deadline(world, absent, named):
    here = [rank for rank in range(3) if rank not in absent]
    start = time.monotonic()
    told = meet(world, HashStore(), 3, here, deadline_s=1.0)
    assert 0.95 < time.monotonic() - start < 1.0 + PATIENCE_S
    for rank, error in zip(here, told, strict=True):
        assert isinstance(error, AgreementError)
        assert str(error) == f"rank {rank} of 3: absent ranks: {named} after 1.0 s"
    assert world.nccl.calls == []


class DeadStore:
    """A store that hangs or fails from some call on."""

    def __init__(self, fails, what):
        self._store, self._fails, self._what = HashStore(), fails, what

    def __getattr__(self, name):
        return self._what if name in self._fails else getattr(self._store, name)


go_on = threading.Event()


def hang(*_):
    go_on.wait(LONG_S)


def refuse(*_):
    raise RuntimeError("Connection reset by peer")


@pytest.mark.parametrize("fails", [("add",), ("set",), ("wait",), ("wait", "check")])
@pytest.mark.parametrize("what", [hang, refuse])
def test_store_that_is_gone(world, fails, what):
    go_on.clear()
    start = time.monotonic()
    (error,) = meet(world, DeadStore(fails, what), 2, [0], deadline_s=0.3)
    assert time.monotonic() - start < PATIENCE_S
    go_on.set()
    assert isinstance(error, AgreementError)
    want = "the store fails, or has no answer: no answer after "
    if what is refuse:
        want = "the store fails, or has no answer: Connection reset by peer"
    elif fails == ("wait",):
        want = "absent ranks: [1] after 0.3 s"
    elif "wait" in fails:
        want = "the store has no answer after 0.3 s"
    assert str(error).startswith(f"rank 0 of 2: {want}")


def test_ranks_that_nccl_does_not_connect(world):
    world.nccl.never_connects = True
    told = meet(world, HashStore(), 2, deadline_s=1.0)
    assert all("NCCL does not connect them in 1.0 s" in str(error) for error in told)
    assert ends(world) == [("abort", 0), ("abort", 1)]


def test_communicator_that_cannot_be_started(world):
    world.nccl.codes["start"] = 6
    told = meet(world, HashStore(), 2)
    assert [str(e) for e in told] == ["ncclCommInitRankConfig failed with 6: remote error"] * 2
    assert all(isinstance(error, CudaError) for error in told)


def test_ranks_that_differ_leave_no_communicator(world):
    other = TickSchema(["full"])
    told = meet(world, HashStore(), 2, schemas=(SCHEMA, other))
    assert all("different numbers of lanes" in str(error) for error in told)
    assert ends(world) == [("abort", 0), ("abort", 1)]


@pytest.mark.parametrize("rank", [-1, 2])
def test_bad_rank(world, rank):
    (error,) = meet(world, HashStore(), 2, [rank])
    assert str(error) == f"rank={rank} not in [0, 2)"


def test_rank_that_comes_late_is_waited_for(world):
    store, groups = HashStore(), []
    early = threading.Thread(target=lambda: groups.extend(meet(world, store, 2, [1])))
    early.start()
    time.sleep(0.2)
    groups += meet(world, store, 2, [0])
    early.join()
    assert tick(groups) == [LANES.tolist()] * 2
