"""Groups in shared memory whose ranks are threads of the test."""

import contextlib
import struct
import threading
import uuid
from pathlib import Path

import numpy as np
from waiting import LONG_S, PATIENCE_S

from hicache_ext.agreement import ShmGroup
from hicache_ext.errors import AgreementError

LANES = np.arange(10, dtype=np.int64)
SHM = Path("/dev/shm")


@contextlib.contextmanager
def fresh_name():
    """A group name that must be gone from /dev/shm afterwards."""
    name = f"test-{uuid.uuid4().hex}"
    yield name
    path = segment(name)
    left = path.exists()
    path.unlink(missing_ok=True)
    assert not left, "the name is left behind"


def segment(name):
    return SHM / f"hicache-{name}"


def line_of(rank):
    """Of shm_segment.h, behind the header: presence, pid, start_time."""
    return 64 + 384 * rank


def has_entered(name, rank):
    try:
        with segment(name).open("rb") as file:
            file.seek(line_of(rank))
            return file.read(4) == struct.pack("<I", 2)
    except FileNotFoundError:
        return False


class Entering(threading.Thread):
    """A rank that enters in a thread of this process: `group` or `error` when it is joined."""

    def __init__(self, name, rank, size=2, num_lanes=10, deadline_s=LONG_S):
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
        self.join(LONG_S + PATIENCE_S)
        assert not self.is_alive()
        return self.error or self.group


def enter(name, size=2):
    groups = [rank.outcome() for rank in [Entering(name, i, size) for i in range(size)]]
    assert all(isinstance(group, ShmGroup) for group in groups), groups
    return groups
