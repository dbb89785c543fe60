"""Forks while the ranks of a group meet in shared memory: what a child keeps of the door."""

import gc
import os
import signal
import subprocess
import sys

import pytest
from shm_tools import Entering, enter, fresh_name, has_entered, segment
from waiting import wait_for

from hicache_ext.agreement import ShmGroup


@pytest.fixture
def name():
    with fresh_name() as name:
        yield name


def test_child_that_is_forked_while_ranks_meet_neither_leaves_nor_stays_in_the_door(name):
    """It has the file open, too, and ends before or after its parent has met."""
    first = Entering(name, 0)
    wait_for(lambda: has_entered(name, 0))
    gone = os.fork()
    if gone == 0:
        gc.collect()
        os._exit(0)
    os.waitpid(gone, 0)
    stays = os.fork()
    if stays == 0:
        signal.pause()
        os._exit(0)
    try:
        assert segment(name).exists()
        second = Entering(name, 1).outcome()
        assert isinstance(first.outcome(), ShmGroup) and isinstance(second, ShmGroup)
        assert not segment(name).exists()
        enter(name)  # the name is free, although the child has the segment mapped
    finally:
        os.kill(stays, signal.SIGKILL)
        os.waitpid(stays, 0)


FORKING_RANK_0 = """
import os, signal, sys
from shm_tools import Entering, has_entered
from waiting import LONG_S, wait_for
name = sys.argv[1]
Entering(name, 0, deadline_s=LONG_S)
wait_for(lambda: has_entered(name, 0))
if os.fork() == 0:
    print(os.getpid(), flush=True)  # it has run since the fork: before that it has all files
signal.pause()
"""


def test_lock_of_a_rank_0_that_was_killed_does_not_live_on_in_a_child(name):
    """It kept the name, and the sweep from it, for as long as the child lived."""
    command = [sys.executable, "-c", FORKING_RANK_0, name]
    paths = os.pathsep.join([os.path.dirname(__file__), *sys.path])
    environment = {**os.environ, "PYTHONPATH": paths}
    rank = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
    child = int(rank.stdout.readline())
    try:
        rank.kill()
        rank.wait()
        assert segment(name).exists()
        enter(name)
    finally:
        os.kill(child, signal.SIGKILL)
        rank.stdout.close()
