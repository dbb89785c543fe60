"""A tick of 2 and of 4 ranks on one host, against what a scheduler does without this package.

A tick is FlowEngine.publish() and apply() over shared memory: 64 ops in flight, 4 pools, Python
included (agreement_ops.py). The yardsticks are a gloo all-reduce for each of 7 counters, and one
gloo all-reduce of all lanes; each is waited for. All ranks run the same blocks of ticks in turns
with the yardsticks; a figure is the median over the blocks of their median, or 99th percentile, in
microseconds per tick.
"""

import sys
from collections import defaultdict
from collections.abc import Callable
from itertools import cycle
from statistics import median

from benchmarks.agreement_ops import FREE_PAGES, HITS, NO_PAGES, POOLS, Load, make_engine
from benchmarks.agreement_ranks import Block, Crew, timed_block
from benchmarks.harness import Bound, Row, Table, interleaved, parse_args
from hicache_ext.agreement import LocalGroup, SlotState, TickHeader, TickSchema, unpack
from hicache_ext.agreement.schema import Packer

NUM_TICKS = {
    2: {"tick": 4000, "depth_0": 2000, "shm_min": 4000, "packed": 400, "per_counter": 60},
    4: {"tick": 1000, "depth_0": 500, "shm_min": 1000, "packed": 40, "per_counter": 8},
}
MIN_SPEEDUP = {2: 25, 4: 100}
MIN_SPEEDUP_P99 = 10
MAX_PACK_APPLY_US = 50.0
MAX_IDLE_CPU = 0.05  # of a core


def measure_ranks(size: int, table: Table, quick: bool) -> None:
    """The rows of a group of `size` processes."""
    num_ticks = NUM_TICKS[size] | ({"torch_min": 400} if size == 2 else {})
    if quick:
        num_ticks = {name: max(count // 40, 4) for name, count in num_ticks.items()}
    blocks: dict[str, list[Block]] = defaultdict(list)
    crew = Crew(size)

    def measure(name: str) -> float:
        block: Block = crew.call("block", name, num_ticks[name])
        blocks[name].append(block)
        return block.median

    try:
        samples = interleaved(
            {name: (lambda name=name: measure(name)) for name in num_ticks},
            num_rounds=2 if quick else 9,
        )
        idle_s = 0.2 if quick else 1.0
        idle_cpu_s = crew.call("cpu_while_idle", idle_s) if size == 2 else None
    finally:
        crew.close()
    p50 = {name: sample.median for name, sample in samples.items()}
    p99 = {name: median(b.p99 for b in taken[1:]) for name, taken in blocks.items()}  # no warm-up

    def row(what: str, figure: float, yardstick: float, target: float | None = None) -> None:
        name = f"{size} ranks: {what}"
        table.add(Row(name, figure, yardstick, "us", target, Bound.AT_MOST))

    packed = p50["packed"]
    row("tick vs packed gloo, median", p50["tick"], packed, 1 / MIN_SPEEDUP[size])
    row("tick vs packed gloo, p99", p99["tick"], p99["packed"], 1 / MIN_SPEEDUP_P99)
    row("tick vs gloo per counter, median", p50["tick"], p50["per_counter"])
    row("tick at depth 0 vs packed gloo, median", p50["depth_0"], packed)
    row("MIN alone vs packed gloo, median", p50["shm_min"], packed)
    if size == 2:
        row("TorchGroup MIN vs packed gloo, median", p50["torch_min"], packed)
        what = "2 ranks: CPU of a rank that waits vs time"
        table.add(Row(what, idle_cpu_s, idle_s, "s", MAX_IDLE_CPU, Bound.AT_MOST))


def measure_alone(table: Table, quick: bool) -> None:
    """What a rank spends by itself on 128 ops."""
    num_ticks = 50 if quick else 1000
    schema = TickSchema(POOLS, num_slots=128)
    parts = {
        "pack and unpack 128 ops that all moved": (pack_and_unpack(schema), MAX_PACK_APPLY_US),
        "tick of 1 rank, 2 of 128 ops move": (make_tick(schema, Load.USUAL), MAX_PACK_APPLY_US),
        "tick of 1 rank, all 128 ops move": (make_tick(schema, Load.ALL), None),
    }
    samples = interleaved(
        {
            name: (lambda step=step: timed_block(step, num_ticks).median)
            for name, (step, _) in parts.items()
        },
        num_rounds=2 if quick else 9,
    )
    for name, (_, bound) in parts.items():
        target = None if bound is None else 1.0
        table.add(Row(name, samples[name].median, MAX_PACK_APPLY_US, "us", target, Bound.AT_MOST))


def make_tick(schema: TickSchema, load: Load) -> Callable[[], object]:
    return make_engine(LocalGroup(), depth=1, schema=schema, load=load)


def pack_and_unpack(schema: TickSchema) -> Callable[[], object]:
    """Every state is a new object in every tick, and every slot is one in the result."""
    packer, header = Packer(schema), TickHeader(1, 5, free_pages=FREE_PAGES)
    sets = cycle(
        {
            slot: SlotState(slot + 1000, 4, True, num_pages, NO_PAGES, HITS)
            for slot in range(schema.num_slots)
        }
        for num_pages in (16, 17)
    )

    def step() -> None:
        lanes = packer.pack(header, next(sets))
        assert len(unpack(schema, lanes, 1, lanes).slots) == schema.num_slots

    return step


def main(quick: bool) -> Table:
    table = Table("one tick, 64 ops in flight, 4 pools")
    measure_alone(table, quick)
    for size in NUM_TICKS:
        measure_ranks(size, table, quick)
    return table


if __name__ == "__main__":
    args = parse_args(__doc__)
    sys.exit(main(args.quick).finish(args.out, "bench_agreement"))
