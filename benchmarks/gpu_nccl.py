"""NcclGroup on real GPUs, a rank on each: every tick is checked, and timed.

    python -m benchmarks.gpu_nccl RANK SIZE STORE_FILE      one rank; `make gpu` starts all of them

Rank 0 prints one line of JSON: the medians of a tick in us by reduction and way of starting it, and
what Reduction.AUTO took. A tick that is not the MIN of what the ranks said ends the process with 1.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

import numpy as np

from hicache_ext.agreement import NcclGroup, Reduction, TickSchema
from hicache_ext.agreement.group import Group
from hicache_ext.agreement.nccl import HEADER_DTYPE, SLOT_DTYPE

SCHEMA = TickSchema(("full", "swa"), num_slots=64)
NUM_TICKS = 1000
DEADLINE_S = 30.0


def said(rank: int, epoch: int) -> np.ndarray:
    """The lanes of a rank in a tick: every rank can work them out."""
    return np.random.default_rng([rank, epoch]).integers(0, 1 << 62, SCHEMA.num_lanes)


def time_ticks(group: Group, num_ticks: int) -> float:
    """Seconds from issue to result, the median; SystemExit at a tick with a wrong lane."""
    taken_s = []
    for epoch in range(num_ticks):
        lanes = said(group.rank, epoch)
        expected = np.min([said(rank, epoch) for rank in range(group.size)], axis=0)
        begin_s = perf_counter()
        group.issue(lanes)
        found = group.result(DEADLINE_S)
        taken_s.append(perf_counter() - begin_s)
        if wrong := np.flatnonzero(found != expected).tolist():
            raise SystemExit(f"rank {group.rank}, tick {epoch}: lanes {wrong} are not the MIN")
    return median(taken_s)


class Records:
    """What the captured tick reads: slot 0 holds op 7, of which each rank has another number."""

    def __init__(self, pinned: Callable[[int], np.ndarray]) -> None:
        """`pinned(num_bytes)` makes zeroed uint8 that the device reads, and that stays."""
        self.header = pinned(HEADER_DTYPE.itemsize).view(HEADER_DTYPE)
        self.slots = pinned(SLOT_DTYPE.itemsize * SCHEMA.num_slots).view(SLOT_DTYPE)
        self.endpoints = pinned(SCHEMA.num_endpoint_lanes)
        self.header["asking_slot"], self.header["free_pages"] = -1, 9
        self.slots["op_id"] = -1
        self.slots[0]["op_id"], self.slots[0]["step"], self.slots[0]["ready"] = 7, 1, 1

    def say(self, epoch: int, num_pages: int) -> None:
        self.header["epoch"], self.slots[0]["num_pages"] = epoch, num_pages

    @property
    def addresses(self) -> tuple[int, int, int]:
        arrays = self.header, self.slots, self.endpoints
        header, slots, endpoints = (int(array.ctypes.data) for array in arrays)
        return header, slots, endpoints


def time_replays(
    group: NcclGroup, records: Records, launch: Callable[[], object], num_ticks: int
) -> float:
    """The same for a tick that a graph has captured: slot 0 comes back as the smallest."""
    taken_s = []
    for epoch in range(num_ticks):
        records.say(epoch, 100 + epoch + group.rank)
        begin_s = perf_counter()
        group.replay(launch)
        slots = group.result_slots(DEADLINE_S, epoch)
        taken_s.append(perf_counter() - begin_s)
        if slots[0].op_id != 7 or slots[0].min_pages != 100 + epoch:
            raise SystemExit(f"rank {group.rank}, replay {epoch}: slot 0 is {slots[0]}")
    return median(taken_s)


def run_rank(rank: int, size: int, store_file: str) -> dict[str, object]:
    """One rank, on GPU `rank`: both reductions, from the host and from a graph."""
    import torch
    import torch.distributed as dist

    torch.cuda.set_device(rank)
    stream = torch.cuda.Stream()
    store = dist.FileStore(store_file, size)

    def group_of(reduction: Reduction) -> NcclGroup:
        where: dict[str, Any] = {"stream": stream.cuda_stream, "device": rank}
        named = dist.PrefixStore(reduction.name, store)
        return NcclGroup.from_store(SCHEMA, named, rank, size, reduction=reduction, **where)

    def pinned(num_bytes: int) -> np.ndarray:
        return torch.zeros(num_bytes, dtype=torch.uint8, pin_memory=True).numpy()

    figures: dict[str, object] = {"num_ranks": size}
    for reduction in (Reduction.ALL_REDUCE, Reduction.ALL_GATHER):
        group, records, graph = group_of(reduction), Records(pinned), torch.cuda.CUDAGraph()
        name = reduction.name.lower()
        figures[f"{name}_us"] = time_ticks(group, NUM_TICKS) * 1e6
        with torch.cuda.graph(graph, stream=stream):
            group.issue_records(*records.addresses)

        def launch(graph: Any = graph) -> None:
            with torch.cuda.stream(stream):
                graph.replay()

        figures[f"{name}_replay_us"] = time_replays(group, records, launch, NUM_TICKS) * 1e6
        group.close()
    group = group_of(Reduction.AUTO)
    figures["auto"] = f"{group.reduction.name}: {group.reduction_why}"
    group.close()
    return figures


def run_ranks(command: Callable[[int, str], list[str]], size: int) -> tuple[bool, str]:
    """A process for each rank; whether all passed, and the line of rank 0 or what went wrong."""
    with tempfile.TemporaryDirectory() as folder:
        output = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
        store_file = str(Path(folder, "store"))
        ranks = [
            subprocess.Popen(command(rank, store_file), **output)  # type: ignore[call-overload]
            for rank in range(size)
        ]
        told = [rank.communicate()[0].strip() for rank in ranks]
    failed = [text for rank, text in zip(ranks, told, strict=True) if rank.returncode != 0]
    last = [text.splitlines()[-1] if text else "said nothing" for text in failed or told[:1]]
    return not failed, last[0]


def nccl(size: int) -> tuple[bool, str]:
    """The step of `make gpu` with so many GPUs."""
    module = [sys.executable, "-m", "benchmarks.gpu_nccl"]
    return run_ranks(lambda rank, store: [*module, str(rank), str(size), store], size)


if __name__ == "__main__":
    found = run_rank(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3])
    if sys.argv[1] == "0":
        print(json.dumps(found))
