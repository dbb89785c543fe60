"""What only ticks in shared memory can get wrong: peers that leave, stop, die or wait."""

import multiprocessing
import os
import resource
import signal
import threading
import time

import numpy as np
import pytest
from group_worker import ProcessRank
from shm_tools import LANES, Entering, enter, fresh_name
from waiting import LONG_S, PATIENCE_S

from hicache_ext.agreement import ShmGroup
from hicache_ext.errors import AgreementError


@pytest.fixture
def name():
    with fresh_name() as name:
        yield name


def test_five_ranks_and_a_rank_order_that_is_not_theirs(name):
    ranks = [Entering(name, rank, 5) for rank in (3, 1, 4, 2, 0)]
    groups = [rank.outcome() for rank in ranks]
    for group in groups:
        group.issue(LANES + group.rank)
    for group in groups:
        np.testing.assert_array_equal(group.result(1.0), LANES)


def test_closed_peer_is_told_at_once(name):
    first, second = enter(name)
    first.issue(LANES)
    second.issue(LANES)
    second.close()
    np.testing.assert_array_equal(first.result(1.0), LANES)  # what it issued before counts
    first.issue(LANES)
    start = time.monotonic()
    with pytest.raises(AgreementError, match=r"rank 1 .* has closed the group after 1 ticks"):
        first.result(LONG_S)
    assert time.monotonic() - start < PATIENCE_S
    assert first.ready()
    with pytest.raises(AgreementError, match="has closed the group"):
        first.result(0.0)  # it says so for good, and not that rank 1 is late


def test_note_tells_why_peers_wait(name):
    first, second = enter(name)
    first.issue(LANES)
    second.note("rank 1 waits for its disk")
    with pytest.raises(
        AgreementError, match=r"late ranks: 1 \(pid \d+: rank 1 waits for its disk\)"
    ):
        first.result(0.05)
    second.note("")
    with pytest.raises(AgreementError, match=r"late ranks: 1 \(pid \d+\) after"):
        first.result(0.05)
    second.note("x" * 1000)
    second.close()
    with pytest.raises(AgreementError, match=r"has closed the group after 0 ticks: x{248}; ticks"):
        first.result(10.0)


def test_stopped_process_is_late_and_not_dead(name):
    rank = ProcessRank(multiprocessing.get_context("spawn"))  # a child of this process
    rank.start("make_shm", name, 1, 2, 10, LONG_S)
    mine = ShmGroup(name, 0, 2, 10)
    rank.finish()
    rank.signal(signal.SIGSTOP)
    mine.issue(LANES)
    with pytest.raises(AgreementError, match=rf"late ranks: 1 \(pid {rank.pid}\) .*: \[1, 0\]"):
        mine.result(0.2)
    rank.signal(signal.SIGCONT)
    rank.call("issue", LANES)
    np.testing.assert_array_equal(mine.result(5.0), LANES)
    rank.signal(signal.SIGKILL)  # nobody reaps it: a zombie keeps its pid
    mine.issue(LANES)
    with pytest.raises(AgreementError, match=rf"rank 1 \(pid {rank.pid}\) is dead after 1 ticks"):
        mine.result(10.0)
    rank.kill()


def test_a_rank_that_cannot_look_does_not_take_its_peers_for_dead(name):
    """No file descriptor is left to read /proc with: a peer that is late is late."""
    rank = ProcessRank()
    rank.start("make_shm", name, 1, 2, 10, LONG_S)
    first = ShmGroup(name, 0, 2, 10)
    rank.finish()
    first.issue(LANES)
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, before[1]))
    try:
        with pytest.raises(AgreementError, match=r"late ranks: 1 \(pid"):
            first.result(0.1)
        assert not first.ready()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
    rank.call("issue", LANES)
    np.testing.assert_array_equal(first.result(5.0), LANES)
    rank.kill()


def test_a_rank_spins_for_a_moment_and_then_sleeps(name):
    """The first wait, which has no reason yet to take spinning for a waste."""
    rank = ProcessRank()
    rank.start("make_shm", name, 1, 2, 10, LONG_S)
    mine = ShmGroup(name, 0, 2, 10)
    rank.finish()
    rank.call("issue", LANES)
    assert rank.call("cpu_of_waiting", 0.05) < 0.005  # of 0.05 that it would spin
    mine.close()
    rank.kill()


def test_a_forked_child_does_not_leave_in_its_parents_name(name):
    first, second = enter(name)
    child = os.fork()
    if child == 0:
        for group in (first, second):
            group.close()
        os._exit(0)
    os.waitpid(child, 0)
    for group in (first, second):
        group.issue(LANES)
    np.testing.assert_array_equal(first.result(5.0), LANES)


@pytest.fixture
def interrupts():
    """Python's own handler: a suite that is started in the background ignores SIGINT."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_interrupt_reaches_a_waiting_rank(name, interrupts):
    first, _second = enter(name)
    first.issue(LANES)
    is_on_its_way = threading.Event()

    def interrupt():
        assert is_on_its_way.wait(PATIENCE_S)  # an earlier one would end pytest
        time.sleep(0.1)
        signal.raise_signal(signal.SIGINT)

    threading.Thread(target=interrupt).start()
    start = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        is_on_its_way.set()
        first.result(LONG_S)
    assert time.monotonic() - start < PATIENCE_S
