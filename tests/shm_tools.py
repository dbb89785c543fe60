"""Groups in shared memory whose ranks are threads of the test."""

import contextlib
import threading
import time
import uuid
from pathlib import Path

import numpy as np

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
