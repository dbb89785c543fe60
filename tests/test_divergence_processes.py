"""As test_divergence.py, in two processes; in the last run over shared memory a rank is killed."""

import multiprocessing
import os
import signal
import time
import traceback
import uuid
from contextlib import contextmanager

import pytest
import ranks
from divergences import CASES, check, dump_of, part
from waiting import LONG_S, PATIENCE_S

from hicache_ext.agreement import ShmGroup, TickSchema


class Dying(ShmGroup):
    """A rank that is killed where the post-mortem has gathered who has which value."""

    num_left = None

    def issue(self, lanes):
        if lanes[0] < 0:  # not a tick
            self.num_left -= 1
            if self.num_left < 0:
                os.kill(os.getpid(), signal.SIGKILL)
        super().issue(lanes)


def programs_over_gloo(rank, name):
    """As programs(), one way to part at each depth."""
    import torch.distributed as dist

    from hicache_ext.agreement import TorchGroup

    dist.init_process_group("gloo", init_method=f"file://{name}", rank=rank, world_size=2)
    for depth in (0, 1):
        group = TorchGroup(dist.new_group([0, 1]), num_lanes=num_lanes_of_a_rank())
        made = ranks.Rank(rank, group, tick_depth=depth, tick_deadline_s=LONG_S)
        yield f"another order, depth {depth}", part(made, "another order")
        made.close()


def num_lanes_of_a_rank():
    return TickSchema(["full", "swa"], 64).num_lanes


def programs(rank, name):
    """(label, outcome) of each way to part, the last of which ends rank 1."""
    num_lanes = num_lanes_of_a_rank()
    todo = [(case, depth) for case in CASES for depth in (0, 1)]
    for i, (case, depth) in enumerate([*todo, ("other tokens", 1)]):
        group = Dying(f"{name}-{i}", rank, 2, num_lanes, deadline_s=LONG_S)
        group.num_left = 1 if i == len(todo) and rank == 1 else 1000
        made = ranks.Rank(rank, group, tick_depth=depth, tick_deadline_s=LONG_S)
        start = time.monotonic()
        yield f"{case}, depth {depth}", (*part(made, case), time.monotonic() - start)
        made.close()
        group.close()


def worker(programs, name, rank, pipe):
    try:
        for result in programs(rank, name):
            pipe.send(result)
    except BaseException:
        pipe.send(("error", traceback.format_exc()))
        raise


@contextmanager
def two_ranks(programs, name):
    """Pipes on which the two report."""
    spawn = multiprocessing.get_context("spawn")
    pipes, workers = [], []
    for rank in range(2):
        ours, theirs = spawn.Pipe()
        workers.append(spawn.Process(target=worker, args=(programs, name, rank, theirs)))
        workers[-1].start()
        pipes.append(ours)
    try:
        yield pipes
    finally:
        for process in workers:
            process.join(10)
            process.kill()


def heard(pipe, label):
    assert pipe.poll(LONG_S + PATIENCE_S), f"{label}: a rank hangs"
    what, value = pipe.recv()
    assert what == label, value
    return value


def test_over_shared_memory():
    with two_ranks(programs, f"test-{uuid.uuid4().hex}") as pipes:
        for case in CASES:
            for depth in (0, 1):
                said = [heard(pipe, f"{case}, depth {depth}")[:2] for pipe in pipes]
                check(case, depth, 2, said)
        num_ticks, text, seconds = heard(pipes[0], "other tokens, depth 1")
    assert num_ticks == 2 and seconds < PATIENCE_S
    assert "digest by rank: rank 0: " in text and "could not find out more: " in text
    assert "rank 1" in text.split("could not find out more: ")[1]
    assert dump_of(text).stat().st_size > 0


@pytest.mark.long
def test_over_gloo(tmp_path):
    with two_ranks(programs_over_gloo, str(tmp_path / "store")) as pipes:
        for depth in (0, 1):
            said = [heard(pipe, f"another order, depth {depth}") for pipe in pipes]
            check("another order", depth, 2, said)
