"""A tick of two ranks on one host: shared memory against one packed all-reduce of gloo.

Both ranks run the same loop in two processes; a figure is the median of a block of ticks, in
microseconds, Python included. "MIN" is issue and result of the lanes of 64 slots and 4 pools;
"whole tick" adds packing and unpacking 64 ops in flight. The yardstick is what a scheduler does
without this package: one asynchronous gloo all-reduce of the same lanes, waited for.
"""

import multiprocessing
import statistics
import sys
import tempfile
import time
import uuid
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

from benchmarks.harness import Bound, Row, Table, interleaved, parse_args
from hicache_ext.agreement import (
    LocalGroup,
    ShmGroup,
    SlotState,
    TickHeader,
    TickSchema,
    pack,
    unpack,
)

SCHEMA = TickSchema(["full", "swa", "mamba", "indexer"], num_slots=64)
OPS = {
    slot: SlotState(slot + 1000, 1, True, 17, (0, 0, 0, 0), (17, 3, 1, 17))
    for slot in range(SCHEMA.num_slots)
}
DEADLINE_S = 30.0


def min_only(group: Any, epoch: int, lanes: Any) -> None:
    """One MIN of lanes that are packed already."""
    group.issue(lanes)
    group.result(DEADLINE_S)


def whole_tick(group: Any, epoch: int, lanes: Any) -> None:
    """What a rank does per scheduler step, apart from applying the outcome."""
    mine = pack(SCHEMA, TickHeader(epoch, 5), OPS)
    group.issue(mine)
    unpack(SCHEMA, group.result(DEADLINE_S), epoch, mine)


class BareGloo:
    """The yardstick as anyone would write it."""

    def __init__(self, tensor: Any) -> None:
        self.tensor = tensor

    def issue(self, lanes: Any) -> None:
        import torch.distributed as dist

        self.work = dist.all_reduce(self.tensor, dist.ReduceOp.MIN, async_op=True)

    def result(self, deadline_s: float) -> Any:
        self.work.wait()


def join(rank: int, shm_name: str, store_path: str) -> dict[str, tuple[Any, Any]]:
    """This rank's groups, by the name of the contender."""
    import torch
    import torch.distributed as dist

    torch.set_num_threads(1)
    store = dist.FileStore(store_path, 2)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=2)
    from hicache_ext.agreement import TorchGroup

    shm = ShmGroup(shm_name, rank, 2, SCHEMA.num_lanes)
    torch_group = TorchGroup(dist.new_group([0, 1]), num_lanes=SCHEMA.num_lanes)
    bare = BareGloo(torch.zeros(SCHEMA.num_lanes, dtype=torch.int64))
    return {
        "shm MIN": (shm, min_only),
        "shm whole tick": (shm, whole_tick),
        "TorchGroup MIN": (torch_group, min_only),
        "bare gloo": (bare, min_only),
    }


def run_block(group: Any, step: Callable[[Any, int, Any], None], num_ticks: int) -> float:
    """The median of the ticks of one block, in microseconds."""
    lanes = pack(SCHEMA, TickHeader(0, 5), OPS)
    taken = []
    for epoch in range(num_ticks):
        start = time.perf_counter()
        step(group, epoch, lanes)
        taken.append(time.perf_counter() - start)
    return statistics.median(taken) * 1e6


def peer(connection: Connection, shm_name: str, store_path: str) -> None:
    """Rank 1: runs the blocks that rank 0 names."""
    groups = join(1, shm_name, store_path)
    while (order := connection.recv()) is not None:
        name, num_ticks = order
        run_block(*groups[name], num_ticks)


def main(quick: bool) -> Table:
    num_ticks = {"shm MIN": 20_000, "shm whole tick": 4000, "TorchGroup MIN": 500, "bare gloo": 500}
    if quick:
        num_ticks = dict.fromkeys(num_ticks, 20)
    spawn = multiprocessing.get_context("spawn")
    ours, theirs = spawn.Pipe()
    with tempfile.TemporaryDirectory() as folder:
        meeting = (f"bench-{uuid.uuid4().hex}", f"{folder}/store")
        process = spawn.Process(target=peer, args=(theirs, *meeting), daemon=True)
        process.start()
        groups = join(0, *meeting)

        def measure(name: str) -> float:
            ours.send((name, num_ticks[name]))
            return run_block(*groups[name], num_ticks[name])

        samples = interleaved(
            {name: (lambda name=name: measure(name)) for name in num_ticks},
            num_rounds=2 if quick else 7,
        )
        ours.send(None)
        process.join(10)
    return fill(samples)


def fill(samples: Any) -> Table:
    """The rows: the tick of this package against the yardstick, and what its parts cost."""
    gloo = samples["bare gloo"].median
    table = Table("one tick, 2 ranks, 64 slots, 4 pools")
    # The whole tick is mostly Python objects. Where something else keeps a core busy, the scheduler
    # puts both ranks on the other one, and they run one after the other.
    targets = {"shm MIN": 1 / 25, "shm whole tick": 1 / 5, "TorchGroup MIN": 2.0}
    for name, target in targets.items():
        row = Row(f"{name} vs gloo", samples[name].median, gloo, "us", target, Bound.AT_MOST)
        table.add(row)
    local = LocalGroup()
    alone = run_block(local, whole_tick, 500)
    table.add(Row("pack, unpack alone vs gloo", alone, gloo, "us", note="a group of one rank"))
    return table


if __name__ == "__main__":
    args = parse_args(__doc__)
    sys.exit(main(args.quick).finish(args.out, "bench_agreement"))
