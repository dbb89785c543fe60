"""What only a group of several hosts can get wrong: leaders, and errors that cross hosts."""

import re
import time

import pytest
from group_backends import NUM_LANES, HierarchicalBackend, all_ranks, errors_of, tick
from waiting import LONG_S, PATIENCE_S

from hicache_ext.agreement import HierarchicalGroup, LocalGroup
from hicache_ext.errors import AgreementError

LANES = [7] * NUM_LANES
HOSTS = [[0, 2], [1]]  # rank 0 leads rank 2; rank 1 is alone


@pytest.fixture(scope="module")
def backend(tmp_path_factory):
    backend = HierarchicalBackend(HOSTS, tmp_path_factory.mktemp("hosts"))
    yield backend
    backend.stop()


LATE = {
    # Of each other rank: what names the missing one.
    0: {1: "between hosts, whose leaders are ranks .*: rank 0 is late", 2: r"late ranks: 0 \(pid"},
    1: {0: "between hosts.*: rank 1 is late", 2: r"0 \(pid \d+: between hosts.*: rank 1 is late"},
    2: {0: r"on host 0 with ranks \[0, 2\]: .* late ranks: 1 \(pid", 1: r"says: .* late ranks: 1"},
}


@pytest.mark.parametrize("victim", [0, 1, 2])
def test_late_rank_is_named_on_both_hosts_and_may_still_come(backend, victim):
    ranks = backend.group()
    tick(ranks, [LANES] * 3)
    others = [rank for i, rank in enumerate(ranks) if i != victim]
    all_ranks(others, "issue", LANES)
    start = time.monotonic()
    for rank in others:
        rank.start("result", 1.0)
    texts = errors_of(others)
    assert time.monotonic() - start < 1.0 + PATIENCE_S
    for text, pattern in zip(texts, LATE[victim].values(), strict=True):
        assert re.search(pattern, text), text
        assert "after 0.05 s" not in text  # the slice in which the leader's thread waits
    ranks[victim].call("issue", [5] * NUM_LANES)
    assert [int(a[0]) for a in all_ranks(ranks, "result", 10.0)] == [5] * 3


def test_leader_takes_back_why_it_was_late(backend):
    ranks = backend.group()
    all_ranks([ranks[0], ranks[1]], "issue", LANES)
    with pytest.raises(AgreementError, match=r"rank 0 says: .* late ranks: 1"):
        ranks[1].call("result", 1.0)
    ranks[2].call("issue", LANES)
    all_ranks(ranks, "result", 10.0)
    ranks[1].call("issue", LANES)
    with pytest.raises(AgreementError, match="rank 0 is late") as error:
        ranks[1].call("result", 1.0)
    assert "says" not in str(error.value)


@pytest.mark.parametrize("victim", [0, 1, 2])
def test_killed_rank_is_an_error_on_both_hosts(backend, victim):
    ranks = backend.group()
    tick(ranks, [LANES] * 3)
    others = [rank for i, rank in enumerate(ranks) if i != victim]
    all_ranks(others, "issue", LANES)
    for rank in others:
        rank.start("result", 1.0)
    time.sleep(0.1)
    start = time.monotonic()
    ranks[victim].kill()
    errors_of(others)
    assert time.monotonic() - start < 1.0 + PATIENCE_S
    for rank in others:  # and it stays one
        with pytest.raises(AgreementError):
            rank.call("result", 0.1)


@pytest.mark.parametrize("victim", [0, 1, 2])
def test_note_reaches_the_ranks_of_the_host_and_a_leaders_the_other_hosts(backend, victim):
    ranks = backend.group()
    ranks[victim].call("note", "its disk is full")
    others = [rank for i, rank in enumerate(ranks) if i != victim]
    all_ranks(others, "issue", LANES)
    for rank in others:
        rank.start("result", 1.0)
    assert all("its disk is full" in text for text in errors_of(others))
    ranks[victim].call("issue", LANES)
    all_ranks(ranks, "result", 10.0)


def test_leader_that_closes_tells_its_host_at_once(backend):
    ranks = backend.group()
    ranks[2].call("issue", LANES)
    ranks[2].start("result", LONG_S)
    time.sleep(0.1)
    start = time.monotonic()
    ranks[0].call("close")
    with pytest.raises(AgreementError, match="has closed the group"):
        ranks[2].finish()
    assert time.monotonic() - start < PATIENCE_S


def parts(size):
    return LocalGroup.simulated(size)[0], LocalGroup.simulated(size)[0]


@pytest.mark.parametrize(
    ("hosts", "rank", "size", "between", "what"),
    [
        ([[0, 1], [1]], 0, 2, 2, "want each rank once"),
        ([[0, 1], [3]], 0, 2, 2, "want each rank once"),
        ([[0], []], 0, 1, 2, "want each rank once"),
        ([[0, 1], [2]], 5, 2, 2, "among them rank 5"),
        ([[0, 1], [2]], 0, 3, 2, "inside is rank 0 of 3; rank 0 is 0 of 2 on its host"),
        ([[0, 1], [2]], 1, 2, 2, "inside is rank 0 of 2; rank 1 is 1 of 2 on its host"),
        ([[0, 1], [2]], 0, 2, None, r"between is \(rank, size\)=None; rank 0 needs \(0, 2\)"),
        ([[0, 1], [2]], 0, 2, 3, r"between is \(rank, size\)=\(0, 3\); rank 0 needs \(0, 2\)"),
    ],
)
def test_groups_that_do_not_fit_the_hosts(hosts, rank, size, between, what):
    leaders = None if between is None else LocalGroup.simulated(between)[0]
    with pytest.raises(AgreementError, match=what):
        HierarchicalGroup(*parts(size), leaders, hosts=hosts, rank=rank, num_lanes=4)
