"""The rank processes of bench_agreement: all run the same block of ticks when they are told."""

import multiprocessing
import os
import statistics
import tempfile
import time
import uuid
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any, NamedTuple

import numpy as np

from benchmarks.agreement_ops import SCHEMA, make_engine
from hicache_ext.agreement import ShmGroup
from hicache_ext.errors import AgreementError

DEADLINE_S = 30.0
NUM_COUNTERS = 3 + len(SCHEMA.pools)
"""What a scheduler agrees on without packing: finished writes, loads, prefetches, hits per pool."""


class Block(NamedTuple):
    """A block of ticks, in microseconds per tick."""

    median: float
    p99: float


def timed_block(step: Callable[[], object], num_ticks: int) -> Block:
    taken = []
    for _ in range(num_ticks):
        start = time.perf_counter()
        step()
        taken.append(time.perf_counter() - start)
    return Block(statistics.median(taken) * 1e6, float(np.percentile(taken, 99)) * 1e6)


class Rank:
    """What one rank can be told to do; every `NAME_step` is one contender."""

    def __init__(self, rank: int, size: int, folder: str, name: str) -> None:
        import torch
        import torch.distributed as dist

        torch.set_num_threads(1)
        store = dist.FileStore(f"{folder}/store", size)
        dist.init_process_group("gloo", store=store, rank=rank, world_size=size)
        from hicache_ext.agreement import TorchGroup

        self.rank = rank
        self.reduce = lambda t: dist.all_reduce(t, dist.ReduceOp.MIN)
        self.packed = torch.zeros(SCHEMA.num_lanes, dtype=torch.int64)
        self.counters = torch.zeros(NUM_COUNTERS, 1, dtype=torch.int64)
        self.lanes = np.zeros(SCHEMA.num_lanes, np.int64)
        groups = [ShmGroup(f"{name}-{i}", rank, size, SCHEMA.num_lanes) for i in range(4)]
        self.shm, self.idle, *rest = groups
        self.tick = make_engine(rest[0], depth=1)
        self.tick_at_depth_0 = make_engine(rest[1], depth=0)
        self.torch = TorchGroup(dist.new_group(), num_lanes=SCHEMA.num_lanes)

    def per_counter_step(self) -> None:
        """The first yardstick: one gloo all-reduce for each counter."""
        for counter in self.counters:
            self.reduce(counter)

    def packed_step(self) -> None:
        """The second yardstick: one gloo all-reduce of everything."""
        self.reduce(self.packed)

    def tick_step(self) -> None:
        self.tick()

    def depth_0_step(self) -> None:
        self.tick_at_depth_0()

    def shm_min_step(self) -> None:
        self.shm.issue(self.lanes)
        self.shm.result(DEADLINE_S)

    def torch_min_step(self) -> None:
        self.torch.issue(self.lanes)
        self.torch.result(DEADLINE_S)

    def block(self, name: str, num_ticks: int) -> Block:
        return timed_block(getattr(self, f"{name}_step"), num_ticks)

    def cpu_while_idle(self, wall_s: float) -> float:
        """CPU seconds of rank 0 while it waits for ranks that do nothing."""
        if self.rank != 0:
            return 0.0
        self.idle.issue(self.lanes)
        start = time.process_time()
        try:
            self.idle.result(wall_s)
        except AgreementError:
            return time.process_time() - start
        raise RuntimeError("the tick came")


def serve(connection: Connection, rank: int, size: int, folder: str, name: str) -> None:
    ops = Rank(rank, size, folder, name)
    connection.send(None)
    while (order := connection.recv()) is not None:
        method, args = order
        connection.send(getattr(ops, method)(*args))
    os._exit(0)  # gloo's threads have nothing to say any more


class Crew:
    """`size` rank processes."""

    def __init__(self, size: int) -> None:
        spawn = multiprocessing.get_context("spawn")
        self._folder = tempfile.TemporaryDirectory()
        self._pipes, self._processes = [], []
        name = f"bench-{uuid.uuid4().hex}"
        for rank in range(size):
            ours, theirs = spawn.Pipe()
            args = (theirs, rank, size, self._folder.name, name)
            process = spawn.Process(target=serve, args=args, daemon=True)
            process.start()
            self._pipes.append(ours)
            self._processes.append(process)
        self._answers()

    def call(self, method: str, *args: Any) -> Any:
        """On every rank; the answer of rank 0."""
        for pipe in self._pipes:
            pipe.send((method, args))
        return self._answers()[0]

    def _answers(self) -> list[Any]:
        return [pipe.recv() for pipe in self._pipes]

    def close(self) -> None:
        for pipe in self._pipes:
            pipe.send(None)
        for process in self._processes:
            process.join(10)
        self._folder.cleanup()
