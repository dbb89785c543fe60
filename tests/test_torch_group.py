"""What only a torch.distributed group can get wrong: three ranks over gloo name the missing one."""

import threading
import time
from datetime import timedelta

import numpy as np
import pytest
from group_worker import ProcessRank
from waiting import LONG_S, PATIENCE_S

from hicache_ext.agreement.attendance import Attendance
from hicache_ext.agreement.group import issued_by_rank
from hicache_ext.errors import AgreementError

LANES = np.arange(10, dtype=np.int64)


class DictStore:
    """The four calls of a torch store that Attendance makes."""

    def __init__(self):
        self.content = {}

    def set(self, key, value):
        self.content[key] = value

    def add(self, key, number):
        self.content[key] = self.content.get(key, 0) + number
        return self.content[key]

    def check(self, keys):
        return all(key in self.content for key in keys)

    def get(self, key):
        return self.content[key].encode()


def test_attendance_names_who_does_not_wait_and_the_last_epochs():
    store = DictStore()
    ranks = [Attendance(store, rank, 4) for rank in range(4)]
    assert ranks[0].roll_call(5, 6) == ("ranks [1, 2, 3] are", issued_by_rank([6, 5, 5, 5]))
    ranks[1].here(4, 5)  # an older tick
    ranks[2].here(5, 7)
    ranks[3].here(6, 8)
    assert ranks[0].roll_call(5, 6) == ("rank 1 is", issued_by_rank([6, 5, 7, 8]))
    ranks[1].here(5, 6)
    assert ranks[0].roll_call(5, 6)[0] == "every rank waits, so the connection is"


def test_attendance_takes_nothing_of_an_earlier_group_for_a_sign_of_life():
    store = DictStore()
    for rank in range(3):
        old = Attendance(store, rank, 3)
        old.here(1000, 1000)
        old.note("of the past")
    ranks = [Attendance(store, rank, 3) for rank in range(3)]
    ranks[2].here(5, 6)
    assert ranks[0].roll_call(5, 6) == ("rank 1 is", issued_by_rank([6, 5, 6]))


def test_attendance_of_two_needs_no_store():
    assert Attendance(None, 1, 2).roll_call(5, 6) == ("rank 0 is", issued_by_rank([5, 6]))


def test_attendance_without_a_store_claims_no_more_than_it_knows():
    who, issued = Attendance(None, 1, 4).roll_call(5, 6)
    assert who == "1 to 3 of the other ranks are"
    assert issued == "; ticks issued by each rank: [>=5, 6, >=5, >=5]"


@pytest.mark.parametrize("hangs", [True, False])
def test_attendance_survives_a_store_that_hangs_or_fails(hangs, monkeypatch):
    comes_back = threading.Event()

    class Faulty(DictStore):
        def check(self, keys):
            return comes_back.wait(LONG_S) and False if hangs else int("x")

    uncaught = []
    monkeypatch.setattr(threading, "excepthook", uncaught.append)
    attendance = Attendance(Faulty(), 0, 4)
    start = time.monotonic()
    for _ in range(5):
        assert attendance.roll_call(5, 6)[0] == "1 to 3 of the other ranks are"
    assert time.monotonic() - start < PATIENCE_S
    comes_back.set()
    # The thread that was left behind meets a store that comes back, and ends in silence.
    for thread in threading.enumerate():
        if thread.name == "hicache-attendance":
            thread.join(PATIENCE_S)
            assert not thread.is_alive()
    assert uncaught == []


@pytest.mark.parametrize("size", [2, 4])
@pytest.mark.parametrize("call", ["set", "check", "get"])
def test_a_store_that_hangs_does_not_delay_the_error(call, size):
    """It came up to 0.75 s after the deadline, of three accesses one after the other."""
    comes_back = threading.Event()

    def late_s():
        store = DictStore()
        ranks = [Attendance(store, rank, size) for rank in range(size)]
        ranks[1].note("on fire")
        setattr(store, call, lambda *_: comes_back.wait(LONG_S))
        start = time.monotonic()
        with pytest.raises(AgreementError, match=r"rank(s \[1, 2, 3\])? .* late after 0\.4 s"):
            ranks[0].wait(lambda max_s: time.sleep(max_s), 5, 6, 0.4)
        return time.monotonic() - start - 0.4

    # A busy machine may be late, and not each time.
    assert any(0 <= late_s() < 0.25 for _ in range(20))
    comes_back.set()


def test_ranks_that_wait_within_half_a_deadline_are_not_called_late():
    store = DictStore()
    ranks = [Attendance(store, rank, 3) for rank in range(3)]
    told = {}

    def wait(rank, pause_s):
        time.sleep(pause_s)
        try:
            ranks[rank].wait(lambda max_s: time.sleep(max_s), 5, 6, 2.4)
        except AgreementError as error:
            told[rank] = str(error)

    threads = [threading.Thread(target=wait, args=(i, 0.3 * i)) for i in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all("rank 2 is late after 2.4 s" in text for text in told.values()) and len(told) == 2


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    ranks = [ProcessRank() for _ in range(3)]
    path = str(tmp_path_factory.mktemp("gloo") / "store")
    all_of(ranks, "join_torch", lambda i: (i, 3, path))
    all_of(ranks, "make_torch", lambda i: ([0, 1, 2], 10, 10.0))
    yield ranks
    for rank in ranks:
        rank.stop()


def all_of(ranks, name, args):
    for i, rank in enumerate(ranks):
        rank.start(name, *args(i))
    return [rank.finish() for rank in ranks]


def test_late_rank_of_three_is_named_and_the_group_survives(ranks):
    for rank in (ranks[0], ranks[2]):
        rank.call("issue", LANES)
    for rank in (ranks[0], ranks[2]):
        rank.start("result", 3.0)
    for rank in (ranks[0], ranks[2]):
        with pytest.raises(AgreementError, match=r"rank 1 is late after 3\.0 s"):
            rank.finish()
    ranks[1].call("issue", LANES - 1)
    for answer in all_of(ranks, "result", lambda i: (5.0,)):
        np.testing.assert_array_equal(answer, LANES - 1)


def test_timeout_of_torch_itself_never_breaks_the_group(ranks):
    """A rank is late by more than the process group's own timeout, and no more than late."""
    timeout = timedelta(seconds=0.5)
    all_of(ranks, "make_torch", lambda i: ([0, 1, 2], 10, 10.0, timeout))
    for rank in (ranks[0], ranks[2]):
        rank.call("issue", LANES)
        rank.start("result", 10.0)
    time.sleep(1.2)
    ranks[1].call("issue", LANES - 1)
    ranks[1].start("result", 10.0)
    for rank in ranks:
        np.testing.assert_array_equal(rank.finish(), LANES - 1)


def test_killed_rank_of_three_breaks_the_group_for_good(ranks):
    for rank in (ranks[0], ranks[2]):
        rank.call("issue", LANES)
        rank.start("result", LONG_S)
    time.sleep(0.1)
    start = time.monotonic()
    ranks[1].kill()
    for rank in (ranks[0], ranks[2]):
        with pytest.raises(AgreementError, match="dead or disconnected"):
            rank.finish()
    assert time.monotonic() - start < PATIENCE_S
    with pytest.raises(AgreementError, match=r"dead or disconnected|is broken"):
        ranks[0].call("result", 1.0)
