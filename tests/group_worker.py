"""A rank in a process of its own, driven through a pipe: what the tests of groups share."""

import contextlib
import multiprocessing
import os
import random
import signal
import threading
import time
import traceback

import numpy as np
from waiting import LONG_S, PATIENCE_S, wait_for

from hicache_ext.agreement import (
    HierarchicalGroup,
    LocalGroup,
    ShmGroup,
    TickHeader,
    TickSchema,
    make_group,
    pack,
    unpack,
)
from hicache_ext.errors import AgreementError

# Ranks are forked from a process that has imported torch, once, and nothing of this package: tests
# of changed copies of it share that process.
_FORK = multiprocessing.get_context("forkserver")
_FORK.set_forkserver_preload(["torch"])


class RankCommands:
    """What a rank can be told to do, in any process. `group` is made by make_* or handed in."""

    def __init__(self, group=None):
        self.group = group

    def make_shm(self, name, rank, size, num_lanes, deadline_s):
        self.num_lanes = num_lanes
        self.group = ShmGroup(name, rank, size, num_lanes, deadline_s=deadline_s)

    def join_torch(self, rank, size, store_path):
        import torch
        import torch.distributed as dist

        torch.set_num_threads(1)
        store = dist.FileStore(store_path, size)
        dist.init_process_group("gloo", store=store, rank=rank, world_size=size)

    def make_torch(self, ranks, num_lanes, deadline_s, timeout=None):
        import torch.distributed as dist

        from hicache_ext.agreement import TorchGroup

        self.num_lanes = num_lanes
        group = dist.new_group(ranks, timeout=timeout, use_local_synchronization=True)
        self.group = TorchGroup(group, num_lanes=num_lanes, deadline_s=deadline_s)

    def make_hierarchical(self, hosts, rank, name, num_lanes, deadline_s):
        """The hosts are shared-memory groups of this machine; their leaders meet over gloo."""
        import torch.distributed as dist

        from hicache_ext.agreement import TorchGroup

        self.num_lanes = num_lanes
        host_idx, mine = next((i, ranks) for i, ranks in enumerate(hosts) if rank in ranks)
        between = None
        if rank == mine[0]:
            leaders = [ranks[0] for ranks in hosts]
            gloo = dist.new_group(leaders, use_local_synchronization=True)
            between = TorchGroup(gloo, num_lanes=num_lanes, deadline_s=deadline_s)

        def on_host(part):
            if len(mine) == 1:
                return LocalGroup()
            place = (f"{name}-{host_idx}-{part}", mine.index(rank), len(mine), num_lanes)
            return ShmGroup(*place, deadline_s=deadline_s)

        self.group = HierarchicalGroup(
            on_host("in"), on_host("out"), between, hosts=hosts, rank=rank, num_lanes=num_lanes
        )

    def make_auto(self, kind, num_lanes, deadline_s, host=None):
        """`host`: where this rank claims to be."""
        from hicache_ext.agreement import auto

        if host is not None:
            auto._host = lambda: (host, host)
        self.num_lanes = num_lanes
        self.group = make_group(kind, num_lanes=num_lanes, deadline_s=deadline_s)
        return self.group.kind, self.group.why

    def dawdle(self, kind, num_lanes, deadline_s, host, pause_s):
        """(whether make_group() fails, how long it takes), with a pause before each step."""
        from hicache_ext.agreement import TorchGroup, auto

        steps = (auto._Meeting, "over_gloo"), (TorchGroup, "_gather"), (auto, "ShmGroup")
        before = [getattr(owner, name) for owner, name in steps]

        def late(step):
            def later(*args, **options):
                time.sleep(pause_s)
                return step(*args, **options)

            return later

        start = time.monotonic()
        try:
            for (owner, name), step in zip(steps, before, strict=True):
                setattr(owner, name, late(step))
            self.make_auto(kind, num_lanes, deadline_s, host)
            return False, time.monotonic() - start
        except AgreementError:
            return True, time.monotonic() - start
        finally:
            for (owner, name), step in zip(steps, before, strict=True):
                setattr(owner, name, step)

    def make_nccl(self, *place):
        from nccl_world import make_rank

        make_rank(self, *place)

    def issue(self, lanes):
        self.group.issue(np.asarray(lanes, dtype=np.int64))

    def result(self, deadline_s):
        return self.group.result(deadline_s)

    def ready(self):
        return self.group.ready()

    def note(self, text):
        self.group.note(text)

    def close(self):
        self.group.close()

    def second_thread(self, lanes, deadline_s):
        """The error of a second thread that issues while the first waits in result()."""
        errors = []

        def is_refused(method, *args):
            try:
                method(*args)
            except AgreementError as error:
                errors[:] = [str(error)]
            return bool(errors)

        def second():
            wait_for(lambda: is_refused(self.ready))  # the first one waits by now
            errors.clear()
            is_refused(self.issue, lanes)

        thread = threading.Thread(target=second)
        thread.start()
        while thread.is_alive():  # the other one may have been inside first
            with contextlib.suppress(AgreementError):  # nobody else has issued: it is only to wait
                self.result(deadline_s)
        return errors

    def cpu_of_waiting(self, deadline_s):
        """Seconds of CPU that a result() takes that waits in vain."""
        start = self.cpu_s()
        try:
            self.result(deadline_s)
        except AgreementError:
            return self.cpu_s() - start
        raise RuntimeError("the tick came")

    def cpu_s(self):
        """Of this process, but for what an emulated GPU takes."""
        return time.process_time() - (self.nccl.cpu_s if hasattr(self, "nccl") else 0.0)

    def run_pipelined(self, num_ticks, seed):
        """Two ticks in flight and random pauses; the number of wrong lanes over all ticks."""
        rng = random.Random(f"{seed} {self.group.rank}")
        offsets = np.arange(self.num_lanes)
        num_wrong = 0
        for epoch in range(num_ticks + 1):
            if epoch < num_ticks:
                self.group.issue(1000 * epoch + offsets + self.group.rank)
            if rng.random() < 0.1:
                time.sleep(rng.random() * 1e-4)
            if epoch > 0:
                lanes = self.group.result(10.0)
                num_wrong += int((lanes != 1000 * (epoch - 1) + offsets).sum())
        return num_wrong

    def run_until_lost(self, num_ticks, deadline_s):
        """Ticks until the end or until a peer is lost: (ticks, wrong lanes, late results, error).

        The lowest lanes come from each rank in turn; one or two ticks are in flight, by turns.
        """
        rank, size = self.group.rank, self.group.size
        offsets = 10 * np.arange(self.num_lanes)
        num_issued = num_done = num_wrong = num_late = 0
        while num_done < num_ticks:
            try:
                while num_issued < min(num_ticks, num_done + 1 + (num_done + rank) % 2):
                    self.group.issue(1000 * num_issued + offsets + (rank - num_issued) % size)
                    num_issued += 1
                lanes = self.group.result(deadline_s)
            except AgreementError as error:
                if "late ranks" not in str(error):
                    return num_done, num_wrong, num_late, str(error)
                num_late += 1  # it was stopped for longer than the deadline: it may still come
                continue
            num_wrong += int((lanes != 1000 * num_done + offsets).sum())
            num_done += 1
        return num_done, num_wrong, num_late, ""

    def issue_tick(self, pools, num_slots, epoch, digest, slots):
        self.schema, self.epoch = TickSchema(pools, num_slots), epoch
        self.mine = pack(self.schema, TickHeader(epoch, digest), slots)
        self.group.issue(self.mine)

    def finish_tick(self, deadline_s):
        return unpack(self.schema, self.group.result(deadline_s), self.epoch, self.mine).slots


def _serve(connection, make_commands):
    commands = make_commands()
    while True:
        name, args = connection.recv()
        if name == "stop":
            return
        try:
            connection.send((True, getattr(commands, name)(*args)))
        except AgreementError as error:
            connection.send((False, error))
        except Exception as error:  # the test that sent the command shows it
            text = "".join(traceback.format_exception(error))
            connection.send((False, RuntimeError(text)))


class ProcessRank:
    """start() and finish() apart let several ranks be inside a command at the same time."""

    def __init__(self, context=_FORK, commands=RankCommands):
        self._connection, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, commands), daemon=True)
        self._process.start()
        theirs.close()

    @property
    def pid(self):
        return self._process.pid

    def start(self, name, *args):
        self._connection.send((name, args))

    def finish(self, timeout_s=LONG_S + PATIENCE_S):
        assert self._connection.poll(timeout_s), "the rank hangs"
        good, value = self._connection.recv()
        if not good:
            raise value
        return value

    def call(self, name, *args):
        self.start(name, *args)
        return self.finish()

    def signal(self, number):
        os.kill(self.pid, number)

    def kill(self):
        if self.is_alive():
            self.signal(signal.SIGKILL)
        self._process.join(10)

    def is_alive(self):
        return self._process.is_alive()

    def stop(self):
        if self._process.is_alive():
            self._connection.send(("stop", ()))
            self._process.join(10)
        if self._process.is_alive():
            self.kill()
