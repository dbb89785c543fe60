"""Who may enter a group in shared memory, and what it leaves behind."""

import contextlib
import os
import struct
import time

import numpy as np
import pytest
from group_worker import ProcessRank
from shm_tools import LANES, SHM, Entering, enter, fresh_name, has_entered, line_of, segment
from waiting import PATIENCE_S, wait_for

from hicache_ext.agreement import ShmGroup
from hicache_ext.errors import AgreementError, CapacityError


@pytest.fixture
def name():
    with fresh_name() as name:
        yield name


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
    assert time.monotonic() - start < PATIENCE_S


def test_rank_that_is_taken(name):
    waiting = [Entering(name, 0, 3), Entering(name, 1, 3)]
    wait_for(lambda: has_entered(name, 0) and has_entered(name, 1))
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


def test_group_whose_ranks_were_all_killed_while_meeting_is_swept_by_the_next(name, request):
    """Nobody will ever use the dead group's name again."""
    dead = f"{name}-dead"
    rank = ProcessRank()
    rank.start("make_shm", dead, 0, 2, 10, 30.0)
    wait_for(lambda: has_entered(dead, 0))
    rank.kill()
    other = segment(f"{name}-other")  # of somebody else, who only likes the prefix
    request.addfinalizer(lambda: other.unlink(missing_ok=True))
    other.write_bytes(b"not a segment")
    other.chmod(0o600)
    assert segment(dead).exists()
    waiting = Entering(f"{name}-alive", 0)  # still meeting: not abandoned
    wait_for(lambda: not segment(dead).exists())
    enter(name)
    assert segment(f"{name}-alive").exists() and other.exists()
    Entering(f"{name}-alive", 1).outcome()
    assert isinstance(waiting.outcome(), ShmGroup)


@pytest.mark.parametrize("left", [b"", struct.pack("<Q", 0x6863_7469_636B_0000) + bytes(56)])
def test_what_a_rank_0_left_that_was_killed_while_it_made_the_segment_is_swept(name, left):
    dead = segment(f"{name}-dead")
    dead.write_bytes(left)
    dead.chmod(0o600)
    enter(name)
    assert dead.exists() == (not left)  # empty and young: maybe of somebody else
    if dead.exists():
        os.utime(dead, (0, 0))
    enter(name)
    assert not dead.exists()


def test_who_removes_a_stale_segment_is_not_taken_for_its_rank_0(name):
    content = struct.pack("<QII", 0x6863_7469_636B_0001, 2, os.geteuid()) + bytes(4080)
    with (
        live_segment(name, content, first_byte=1),
        pytest.raises(AgreementError, match="stale segment, whose rank 0 is dead"),
    ):
        ShmGroup(name, 1, 2, 10, deadline_s=0.1)


def test_who_removes_a_stale_segment_does_not_keep_rank_0_out(name):
    """Found by docs/verification/shm_door.pml: it was taken for another rank 0, an error."""
    with (
        live_segment(name, bytes(4096), first_byte=1),
        pytest.raises(AgreementError, match=r"a stale segment, which is being removed after"),
    ):
        ShmGroup(name, 0, 2, 10, deadline_s=0.1)
    enter(name)


def test_killed_while_meeting_leaves_nothing_that_matters(name):
    rank = ProcessRank()
    rank.start("make_shm", name, 0, 3, 10, 30.0)
    wait_for(lambda: has_entered(name, 0))
    second = Entering(name, 1, 3)
    wait_for(lambda: has_entered(name, 1))
    rank.kill()
    assert "died while the ranks were meeting" in second.outcome()
    enter(name)  # whether or not the name was still there


def test_pid_that_was_reused_is_dead(name):
    """The process with rank 1's pid lives, but it was started at another time than rank 1."""
    waiting = [Entering(name, 0, 3), Entering(name, 1, 3)]
    wait_for(lambda: has_entered(name, 0) and has_entered(name, 1))
    with segment(name).open("r+b", buffering=0) as file:
        file.seek(line_of(1))
        presence, pid, start_time = struct.unpack("<IiQ", file.read(16))
        assert (presence, pid) == (2, os.getpid())
        file.seek(line_of(1) + 8)
        file.write(struct.pack("<Q", start_time + 1))
    texts = [rank.outcome() for rank in waiting]
    assert any(f"rank 1 (pid {pid}) died while the ranks were meeting" in text for text in texts)
    # Whoever saw it first has left, which the other one may see instead.
    assert all("while the ranks were meeting" in text for text in texts)


def test_a_rank_whose_start_time_nobody_knows_is_not_dead(name):
    """As where /proc is not mounted."""
    waiting = [Entering(name, 0, 3), Entering(name, 1, 3)]
    wait_for(lambda: has_entered(name, 0) and has_entered(name, 1))
    with segment(name).open("r+b", buffering=0) as file:
        file.seek(line_of(1) + 8)
        file.write(struct.pack("<Q", 0))
    time.sleep(0.05)  # the others look at each other
    last = ShmGroup(name, 2, 3, 10)
    assert last.rank == 2 and all(isinstance(rank.outcome(), ShmGroup) for rank in waiting)


@contextlib.contextmanager
def live_segment(name, content, first_byte=0):
    """A file under the group's name, locked from a byte on: from 0 by a maker that is alive."""
    import fcntl

    fd = os.open(segment(name), os.O_CREAT | os.O_RDWR, 0o600)
    try:
        os.write(fd, content)
        set_lock = getattr(fcntl, "F_OFD_SETLK", 37)
        fcntl.fcntl(fd, set_lock, struct.pack("hhqqi4x", fcntl.F_WRLCK, 0, first_byte, 0, 0))
        yield
    finally:
        os.close(fd)
        segment(name).unlink()


def test_segment_of_another_version(name):
    content = struct.pack("<QII", 0x6863_7469_636B_0001, 9, os.geteuid()) + bytes(4080)
    with live_segment(name, content), pytest.raises(AgreementError, match=r"version 9.*version 2"):
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
