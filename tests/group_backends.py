"""The groups under test, by one interface: how to make one of `size` ranks, and what is special."""

import uuid

import pytest
from fake_nccl import SOURCE, compile_c
from group_worker import ProcessRank, RankCommands

from hicache_ext.agreement import LocalGroup, TickSchema
from hicache_ext.errors import AgreementError

POOLS, NUM_SLOTS = ("full", "swa"), 4
NUM_LANES = TickSchema(POOLS, NUM_SLOTS).num_lanes
DEADLINE_S = 10.0


class LocalRank:
    """A simulated rank: the command runs when its answer is asked for."""

    def __init__(self, group):
        self._commands = RankCommands(group)

    def start(self, name, *args):
        self._next = (name, args)

    def finish(self, timeout_s=60):
        name, args = self._next
        return getattr(self._commands, name)(*args)

    def call(self, name, *args):
        self.start(name, *args)
        return self.finish()

    def kill(self):
        self._commands.close()


class LocalBackend:
    kind = "local"

    def __init__(self, size):
        self.size = size

    def group(self, num_lanes=None):
        return [LocalRank(group) for group in LocalGroup.simulated(self.size)]

    def stop(self):
        pass

    def late(self, rank):
        """How errors name it, a regular expression."""
        return rf"ranks \[{rank}\] have not issued"


class ProcessBackend:
    """One process for each rank, kept from test to test; when one was killed, all are replaced."""

    def __init__(self, size, folder):
        self.size, self.folder, self.ranks = size, folder, []

    def group(self, num_lanes=None):
        """`num_lanes`: of each rank."""
        if not self.ranks or not all(rank.is_alive() for rank in self.ranks):
            self.stop()
            self.ranks = [ProcessRank() for _ in range(self.size)]
            self.join()
        self.make([NUM_LANES] * self.size if num_lanes is None else num_lanes)
        return self.ranks

    def each(self, name, args_of_rank):
        for i, rank in enumerate(self.ranks):
            rank.start(name, *args_of_rank(i))
        return finish_all(self.ranks)

    def join(self):
        path = str(self.folder / uuid.uuid4().hex)
        self.each("join_torch", lambda i: (i, self.size, path))

    def stop(self):
        for rank in self.ranks:
            rank.stop()


class ShmBackend(ProcessBackend):
    kind = "shm"

    def join(self):
        pass

    def make(self, num_lanes):
        name = f"test-{uuid.uuid4().hex}"
        self.each("make_shm", lambda i: (name, i, self.size, num_lanes[i], DEADLINE_S))

    def late(self, rank):
        return rf"late ranks: {rank} \(pid"


class TorchBackend(ProcessBackend):
    kind = "torch"

    def make(self, num_lanes):
        ranks = list(range(self.size))
        self.each("make_torch", lambda i: (ranks, num_lanes[i], DEADLINE_S))

    def late(self, rank):
        return f"rank {rank} is late"


class HierarchicalBackend(ProcessBackend):
    kind = "hierarchical"

    def __init__(self, hosts, folder):
        super().__init__(sum(map(len, hosts)), folder)
        self.hosts = hosts

    def make(self, num_lanes):
        name = f"test-{uuid.uuid4().hex}"
        self.each("make_hierarchical", lambda i: (self.hosts, i, name, num_lanes[i], DEADLINE_S))

    def late(self, rank):
        host_idx, ranks = next((i, ranks) for i, ranks in enumerate(self.hosts) if rank in ranks)
        if len(ranks) == 1:
            return f"rank {host_idx} is late"
        return rf"late ranks: {ranks.index(rank)} \(pid"


class NcclBackend(ProcessBackend):
    """On emulated GPUs."""

    kind = "nccl"

    def __init__(self, size, folder, reduction):
        super().__init__(size, folder)
        self.library = compile_c(SOURCE, folder / "libfake.so")
        self.reduction = reduction

    def make(self, num_lanes):
        where = (self.library, str(self.folder))
        self.each(
            "make_nccl",
            lambda i: (*where, i, self.size, num_lanes[i], DEADLINE_S, self.reduction),
        )

    def late(self, rank):
        return f"rank {rank} is late"


class AutoBackend(ShmBackend):
    kind = "auto"

    join = ProcessBackend.join

    def make(self, num_lanes):
        self.each("make_auto", lambda i: ("auto", num_lanes[i], DEADLINE_S))


BACKENDS = {
    "local-3": lambda folder: LocalBackend(3),
    "shm-2": lambda folder: ShmBackend(2, folder),
    "torch-2": lambda folder: TorchBackend(2, folder),
    "hierarchical-2+1": lambda folder: HierarchicalBackend([[0, 2], [1]], folder),
    "nccl-2": lambda folder: NcclBackend(2, folder, "ALL_GATHER"),
}
LONG_BACKENDS = {
    "local-8": lambda folder: LocalBackend(8),
    "shm-4": lambda folder: ShmBackend(4, folder),
    "shm-8": lambda folder: ShmBackend(8, folder),
    "torch-4": lambda folder: TorchBackend(4, folder),
    "torch-8": lambda folder: TorchBackend(8, folder),
    "hierarchical-2+2": lambda folder: HierarchicalBackend([[0, 1], [2, 3]], folder),
    "hierarchical-1+1": lambda folder: HierarchicalBackend([[0], [1]], folder),
    "hierarchical-3+1+2": lambda folder: HierarchicalBackend([[0, 1, 2], [3], [4, 5]], folder),
    "nccl-2-reduce": lambda folder: NcclBackend(2, folder, "ALL_REDUCE"),
    "nccl-3": lambda folder: NcclBackend(3, folder, "AUTO"),
    "auto-2": lambda folder: AutoBackend(2, folder),
}
PARAMS = [*BACKENDS, *(pytest.param(name, marks=pytest.mark.long) for name in LONG_BACKENDS)]
PROCESS_PARAMS = [p for p in PARAMS if "local" not in str(p)]


def make_backend(name, folder):
    return (BACKENDS | LONG_BACKENDS)[name](folder)


def finish_all(ranks):
    """Every answer is taken before the first error is raised: the ranks stay usable."""
    answers, errors = [], []
    for rank in ranks:
        try:
            answers.append(rank.finish())
        except AgreementError as error:
            errors.append(error)
    if errors:
        raise errors[0]
    return answers


def errors_of(ranks):
    """Every rank ends in an AgreementError: their texts."""
    texts = []
    for rank in ranks:
        with pytest.raises(AgreementError) as error:
            rank.finish()
        texts.append(str(error.value))
    return texts


def all_ranks(ranks, name, *args):
    for rank in ranks:
        rank.start(name, *args)
    return finish_all(ranks)


def tick(ranks, vectors, deadline_s=10.0):
    for rank, lanes in zip(ranks, vectors, strict=True):
        rank.start("issue", lanes)
    finish_all(ranks)
    return all_ranks(ranks, "result", deadline_s)
