"""Ranks of an NcclGroup in one process: emulated GPUs, a fake libnccl, a thread for each rank."""

from concurrent.futures import ThreadPoolExecutor

from fake_nccl import SOURCE, FakeNccl, compile_c, going_on

from hicache_ext import _C
from hicache_ext.agreement import NcclGroup, TickSchema

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
