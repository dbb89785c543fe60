"""What only a group in shared memory can get wrong: who may enter, what is left behind."""

import contextlib
import os
import signal
import struct
import threading
import time
import uuid
from pathlib import Path

import numpy as np
import pytest
from group_worker import ProcessRank

from hicache_ext.agreement import ShmGroup
from hicache_ext.errors import AgreementError, CapacityError

LANES = np.arange(10, dtype=np.int64)
SHM = Path("/dev/shm")


@pytest.fixture
def name():
    name = f"test-{uuid.uuid4().hex}"
    yield name
    path = segment(name)
    left = path.exists()
    path.unlink(missing_ok=True)
    assert not left, "the name is left behind"


def segment(name):
    return SHM / f"hicache-{name}"


class Entering(threading.Thread):
    """A rank that enters in a thread of this process: `group` or `error` when it is joined."""

    def __init__(self, name, rank, size=2, num_lanes=10, deadline_s=5.0):
        super().__init__()
        self.args, self.deadline_s = (name, rank, size, num_lanes), deadline_s
        self.group = self.error = None
        self.start()

    def run(self):
        try:
            self.group = ShmGroup(*self.args, deadline_s=self.deadline_s)
        except AgreementError as error:
            self.error = str(error)

    def outcome(self):
        self.join(10)
        assert not self.is_alive()
        return self.error or self.group


def enter(name, size=2):
    groups = [rank.outcome() for rank in [Entering(name, i, size) for i in range(size)]]
    assert all(isinstance(group, ShmGroup) for group in groups), groups
    return groups


def wait_for(condition, timeout_s=5.0):
    end = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.005)


def test_file_is_private_while_ranks_meet_and_gone_afterwards(name):
    first = Entering(name, 0)
    wait_for(segment(name).exists)
    assert segment(name).stat().st_mode & 0o777 == 0o600
    second = Entering(name, 1)
    groups = [first.outcome(), second.outcome()]
    assert not segment(name).exists()
    for group in groups:
        group.issue(LANES)
    np.testing.assert_array_equal(groups[0].result(1.0), LANES)
    np.testing.assert_array_equal(groups[1].result(1.0), LANES)


def test_group_of_one(name):
    group = ShmGroup(name, 0, 1, 10)
    group.issue(LANES)
    assert group.ready()
    np.testing.assert_array_equal(group.result(0.0), LANES)


def test_five_ranks_and_a_rank_order_that_is_not_theirs(name):
    ranks = [Entering(name, rank, 5) for rank in (3, 1, 4, 2, 0)]
    groups = [rank.outcome() for rank in ranks]
    for group in groups:
        group.issue(LANES + group.rank)
    for group in groups:
        np.testing.assert_array_equal(group.result(1.0), LANES)


def test_name_can_be_used_again_after_the_ranks_met(name):
    old, new = enter(name), enter(name)
    for group in [*old, *new]:
        group.issue(LANES + (group in new))
    assert [int(g.result(1.0)[0]) for g in [*old, *new]] == [0, 0, 1, 1]


def test_rank_that_never_comes_is_named(name):
    with pytest.raises(AgreementError, match=r"absent ranks: 1 2 after 0\.1 s"):
        ShmGroup(name, 0, 3, 10, deadline_s=0.1)
    with pytest.raises(AgreementError, match="rank 0 has not opened the group; there is no such"):
        ShmGroup(name, 1, 3, 10, deadline_s=0.1)


@pytest.mark.parametrize("theirs", [(3, 10), (2, 11)])
def test_other_shape_is_told_to_every_rank(name, theirs):
    first = Entering(name, 0)
    wait_for(segment(name).exists)
    start = time.monotonic()
    refused = Entering(name, 1, *theirs)
    values = [f"size={theirs[0]} num_lanes={theirs[1]}", "size=2 num_lanes=10"]
    for text in (refused.outcome(), first.outcome()):
        assert all(value in text for value in ["rank 1", *values])
    assert time.monotonic() - start < 2


def test_rank_that_is_taken(name):
    waiting = [Entering(name, 0, 3), Entering(name, 1, 3)]
    wait_for(segment(name).exists)
    time.sleep(0.05)
    with pytest.raises(AgreementError, match=rf"rank 1 of group .* is taken by pid {os.getpid()}"):
        ShmGroup(name, 1, 3, 10)
    with pytest.raises(AgreementError, match="another rank 0 waits"):
        ShmGroup(name, 0, 3, 10)
    last = ShmGroup(name, 2, 3, 10)
    assert all(isinstance(rank.outcome(), ShmGroup) for rank in waiting)
    assert last.rank == 2


def test_stale_segment_is_replaced_by_rank_0_and_refused_by_others(name):
    segment(name).write_bytes(bytes(4096))
    segment(name).chmod(0o600)
    with pytest.raises(AgreementError, match="stale segment, whose rank 0 is dead"):
        ShmGroup(name, 1, 2, 10, deadline_s=0.1)
    enter(name)


def test_killed_while_meeting_leaves_nothing_that_matters(name):
    rank = ProcessRank()
    rank.start("make_shm", name, 0, 3, 10, 30.0)
    wait_for(segment(name).exists)
    second = Entering(name, 1, 3)
    time.sleep(0.2)
    rank.kill()
    assert "died while the ranks were meeting" in second.outcome()
    enter(name)  # whether or not the name was still there


def test_pid_that_was_reused_is_dead(name):
    """The process with rank 1's pid lives, but it was started at another time than rank 1."""
    waiting = [Entering(name, 0, 3), Entering(name, 1, 3)]
    wait_for(lambda: segment(name).exists() and segment(name).stat().st_size > 0)
    time.sleep(0.1)
    header_bytes, line_bytes = 64, 128  # shm_segment.h: presence, pid, start_time
    with segment(name).open("r+b", buffering=0) as file:
        file.seek(header_bytes + line_bytes)
        presence, pid, start_time = struct.unpack("<IiQ", file.read(16))
        assert (presence, pid) == (2, os.getpid())
        file.seek(header_bytes + line_bytes + 8)
        file.write(struct.pack("<Q", start_time + 1))
    texts = [rank.outcome() for rank in waiting]
    assert any(f"rank 1 (pid {pid}) died while the ranks were meeting" in text for text in texts)
    # Whoever saw it first has left, which the other one may see instead.
    assert all("while the ranks were meeting" in text for text in texts)


@contextlib.contextmanager
def live_segment(name, content):
    """A file under the group's name whose maker is alive: it holds the lock."""
    import fcntl

    fd = os.open(segment(name), os.O_CREAT | os.O_RDWR, 0o600)
    try:
        os.write(fd, content)
        set_lock = getattr(fcntl, "F_OFD_SETLK", 37)
        fcntl.fcntl(fd, set_lock, struct.pack("hhqqi4x", fcntl.F_WRLCK, 0, 0, 0, 0))
        yield
    finally:
        os.close(fd)
        segment(name).unlink()


def test_segment_of_another_version(name):
    content = struct.pack("<QII", 0x6863_7469_636B_0001, 9, os.geteuid()) + bytes(4080)
    with live_segment(name, content), pytest.raises(AgreementError, match=r"version 9.*version 1"):
        ShmGroup(name, 1, 2, 10)


def test_segment_that_is_not_finished(name):
    with (
        live_segment(name, bytes(4096)),
        pytest.raises(AgreementError, match="rank 0 has not finished making it"),
    ):
        ShmGroup(name, 1, 2, 10, deadline_s=0.1)


@pytest.mark.parametrize("rank", [0, 1])
def test_segment_that_others_can_write(name, rank):
    segment(name).write_bytes(bytes(4096))
    segment(name).chmod(0o666)
    with pytest.raises(AgreementError, match="mode 0666"):
        ShmGroup(name, rank, 2, 10)
    segment(name).unlink()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
@pytest.mark.parametrize("rank", [0, 1])
def test_segment_of_another_user(name, rank):
    segment(name).write_bytes(bytes(4096))
    segment(name).chmod(0o600)
    os.chown(segment(name), 12345, 12345)
    with pytest.raises(AgreementError, match="belongs to uid 12345, this process runs as uid 0"):
        ShmGroup(name, rank, 2, 10)
    segment(name).unlink()


def test_closed_peer_is_told_at_once(name):
    first, second = enter(name)
    first.issue(LANES)
    second.issue(LANES)
    second.close()
    np.testing.assert_array_equal(first.result(1.0), LANES)  # what it issued before counts
    first.issue(LANES)
    start = time.monotonic()
    with pytest.raises(AgreementError, match=r"rank 1 .* has closed the group after 1 ticks"):
        first.result(10.0)
    assert time.monotonic() - start < 1
    assert first.ready()


def test_stopped_process_is_late_and_not_dead(name):
    rank = ProcessRank()
    rank.start("make_shm", name, 1, 2, 10, 10.0)
    mine = ShmGroup(name, 0, 2, 10)
    rank.finish()
    rank.signal(signal.SIGSTOP)
    mine.issue(LANES)
    with pytest.raises(AgreementError, match=rf"late ranks: 1 \(pid {rank.pid}, 0 ticks issued\)"):
        mine.result(0.2)
    rank.signal(signal.SIGCONT)
    rank.call("issue", LANES)
    np.testing.assert_array_equal(mine.result(5.0), LANES)
    rank.signal(signal.SIGKILL)  # nobody reaps it: a zombie keeps its pid
    mine.issue(LANES)
    with pytest.raises(AgreementError, match=rf"rank 1 \(pid {rank.pid}\) is dead after 1 ticks"):
        mine.result(10.0)
    rank.kill()


@pytest.fixture
def interrupts():
    """Python's own handler: a suite that is started in the background ignores SIGINT."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_interrupt_reaches_a_waiting_rank(name, interrupts):
    first, _second = enter(name)
    first.issue(LANES)
    timer = threading.Timer(0.1, signal.raise_signal, [signal.SIGINT])
    timer.start()
    start = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        first.result(10.0)
    assert time.monotonic() - start < 2


@pytest.mark.parametrize("bad", ["", "a/b", "x" * 201, "a b", "ä"])
def test_bad_name(bad):
    with pytest.raises(AgreementError, match="group name"):
        ShmGroup(bad, 0, 1, 10)


@pytest.mark.parametrize(
    ("rank", "size", "num_lanes", "what"),
    [(0, 0, 10, "size=0"), (2, 2, 10, "rank=2"), (-1, 2, 10, "rank=-1"), (0, 1, 0, "num_lanes=0")],
)
def test_bad_shape(name, rank, size, num_lanes, what):
    with pytest.raises(AgreementError, match=what):
        ShmGroup(name, rank, size, num_lanes)


def test_shared_memory_that_is_full(name):
    free = os.statvfs(SHM).f_bavail * os.statvfs(SHM).f_frsize
    if free > 1024 * 4 * 8 * (1 << 24):
        pytest.skip("/dev/shm is larger than the largest group")
    with pytest.raises(CapacityError, match="No space left"):
        ShmGroup(name, 0, 1024, 1 << 24)
