"""Caches of three processes, one of which fails: the others are told in time, and lose no page."""

import re
import signal
import time
import uuid

import pytest
from cache_worker import CacheCommands
from group_worker import ProcessRank
from shm_tools import segment
from waiting import LONG_S, PATIENCE_S

from hicache_ext.agreement import TickSchema

SIZE = 3
VICTIM = 1
# A torch group names the rank that has not said within half a deadline that it waits: a rank that a
# busy machine keeps from running for that long would be named as well.
DEADLINE_S = {"shm": 2.0, "torch": 3.0}
NUM_SLOTS = 64


FAILURES = {
    "dies": lambda rank: rank.signal(signal.SIGKILL),
    "stalls": lambda rank: rank.signal(signal.SIGSTOP),
    "garbage": lambda rank: rank.call("send_garbage"),
    "old epoch": lambda rank: rank.call("begin_again"),
    "other version": lambda rank: rank.call("update"),
}
SAYS = {
    "dies": r"rank 1\b.*(is dead|dead or disconnected).*ticks issued by each rank: \[",
    "stalls": r"(late ranks: 1 \(pid \d+\)|rank 1 is late) after .*ticks issued by each rank: \[",
    "garbage": "ranks differ in lane",
    "old epoch": r"\((schema|epoch|digest)\)",
    "other version": r"\(schema\)",
}


@pytest.fixture(params=[1, pytest.param(0, marks=pytest.mark.long)], ids=["depth1", "depth0"])
def depth(request):
    return request.param


@pytest.fixture(params=["shm", pytest.param("torch", marks=pytest.mark.long)])
def kind(request):
    return request.param


@pytest.fixture
def ranks(kind, depth, tmp_path):
    ranks = [ProcessRank(commands=CacheCommands) for _ in range(SIZE)]
    name, num_lanes = f"test-{uuid.uuid4().hex}", TickSchema(["full", "swa"], NUM_SLOTS).num_lanes
    for i, rank in enumerate(ranks):
        if kind == "torch":
            rank.start("join_torch", i, SIZE, str(tmp_path / "store"))
            rank.start("make_torch", list(range(SIZE)), num_lanes, LONG_S)
        else:
            rank.start("make_shm", name, i, SIZE, num_lanes, LONG_S)
        rank.start("make_cache", depth, DEADLINE_S[kind])
    for rank in ranks:
        for _ in range(3 if kind == "torch" else 2):
            rank.finish()
    yield ranks
    for rank in ranks:
        rank.kill()
    assert not segment(name).exists()


@pytest.mark.parametrize("failure", FAILURES)
def test_every_other_rank_is_told_within_the_deadline(ranks, failure, kind):
    for rank in ranks:
        rank.start("run_ticks", 20)
    assert [rank.finish() for rank in ranks] == [None] * SIZE
    FAILURES[failure](ranks[VICTIM])
    others = [rank for i, rank in enumerate(ranks) if i != VICTIM]
    alive = others if failure in ("dies", "stalls") else ranks
    start = time.monotonic()
    for rank in alive:
        rank.start("run_ticks", 1 << 20)
    texts = {rank: rank.finish() for rank in alive}
    assert time.monotonic() - start < DEADLINE_S[kind] + PATIENCE_S
    for rank in others:
        assert re.search(SAYS[failure], texts[rank]), texts[rank]
        assert set(rank.call("close_cache").values()) == {0}
