"""Ranks of an NcclGroup in one process: emulated GPUs, a fake libnccl, a thread for each rank."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from fake_nccl import SOURCE, FakeNccl, compile_c, going_on

from hicache_ext import _C
from hicache_ext.agreement import NcclGroup, Reduction, TickSchema
from hicache_ext.agreement.nccl import HEADER_DTYPE, SLOT_DTYPE

SCHEMA = TickSchema(["full", "swa"], num_slots=4, num_endpoint_lanes=8)


def in_threads(calls):
    """What they return, or the errors that they raise."""

    def outcome(call):
        try:
            return call()
        except Exception as error:
            return error

    with ThreadPoolExecutor(len(calls)) as threads:
        return list(threads.map(outcome, calls))


class Records:
    """What a rank says, in pinned memory, as issue_records() reads it."""

    def __init__(self, cuda):
        self.header = np.zeros(1, HEADER_DTYPE)
        self.slots = np.zeros(SCHEMA.num_slots, SLOT_DTYPE)
        self.endpoints = np.zeros(SCHEMA.num_endpoint_lanes, np.uint8)
        for array in (self.header, self.slots, self.endpoints):
            cuda.register_host(array.ctypes.data, array.nbytes)
        self.addresses = [a.ctypes.data for a in (self.header, self.slots, self.endpoints)]
        self.say(0, {})

    def say(self, epoch, slots):
        self.header["epoch"], self.header["asking_slot"] = epoch, -1
        self.header["free_pages"] = np.iinfo(np.int64).max
        self.slots["op_id"] = -1
        for i, state in slots.items():
            values = {**state._asdict(), "short": (*state.short,) + (0,) * 14}
            self.slots[i] = tuple(
                (*values[name],) + (0,) * 14 if name == "hits" else values[name]
                for name in SLOT_DTYPE.names
            )


class World:
    def __init__(self, folder, **emulator):
        self.cuda = _C.CudaEmulator(**emulator)
        self.library = compile_c(SOURCE, folder / "libfake.so")
        self.nccl = FakeNccl(self.library, folder, self.cuda)
        self._going_on = going_on(self.cuda, self.nccl)

    def __enter__(self):
        self.cuda.install()
        self._going_on.__enter__()
        return self

    def __exit__(self, *_):
        self._going_on.__exit__(None, None, None)
        self.cuda.uninstall()
        assert self.nccl.errors == []

    def place(self, device=0):
        stream = self.cuda.create_stream(device)
        return {"stream": stream, "device": device, "library": self.library}

    def try_groups(self, *options):
        """A rank for each dict of options: the groups, or why there is none."""
        comms = self.nccl.lend(len(options))

        def make(rank):
            mine = {"schema": SCHEMA, "deadline_s": 5.0, **self.place(), **options[rank]}
            return NcclGroup(mine.pop("schema"), comms[rank], **mine)

        return in_threads([lambda rank=rank: make(rank) for rank in range(len(options))])

    def groups(self, size=2, **options):
        made = self.try_groups(*[options] * size)
        for group in made:
            if isinstance(group, Exception):
                raise group
        return made


def make_rank(rank_process, library, folder, rank, size, num_lanes, deadline_s, reduction):
    """The group of a rank in a process (group_worker.py), whose ranks meet in `folder`."""
    import torch.distributed as dist

    if not hasattr(rank_process, "cuda"):
        rank_process.cuda = _C.CudaEmulator(seed=rank)
        rank_process.cuda.install()
        rank_process.nccl = FakeNccl(library, Path(folder), rank_process.cuda)
        rank_process.going_on = going_on(rank_process.cuda, rank_process.nccl)
        rank_process.going_on.__enter__()
    rank_process.num_lanes = num_lanes
    rank_process.group = NcclGroup.from_store(
        schema_of(num_lanes),
        dist.group.WORLD.get_group_store(),
        rank,
        size,
        stream=rank_process.cuda.create_stream(),
        library=library,
        reduction=Reduction[reduction],
        deadline_s=deadline_s,
    )
    assert rank_process.nccl.errors == []


def schema_of(num_lanes):
    """The tests' usual one, or one of so many lanes."""
    usual = TickSchema(("full", "swa"), 4)
    if num_lanes == usual.num_lanes:
        return usual
    least = TickSchema(("full", "swa"), 1, 1)
    return TickSchema(least.pools, 1, 1 + num_lanes - least.num_lanes)
