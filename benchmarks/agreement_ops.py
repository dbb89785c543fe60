"""Ops that are in flight and an engine that ticks them: what bench_agreement times.

The engine, the table of ops, packing and applying are the real ones; the ops do nothing but say
where they are. Of 64 ops in flight 2 take a step in each tick, the others wait for their I/O: as
prefetches do that take four steps (query, reserve, read, commit) in 128 scheduler steps of 10 ms.
"""

from collections.abc import Callable
from enum import Enum
from typing import cast

from hicache_ext.agreement import AgreedSlot, Group, SlotState, TickSchema
from hicache_ext.flow.alarm import Alarm
from hicache_ext.flow.backup_line import BackupLine, BackupPolicy, WritePolicy
from hicache_ext.flow.context import FlowContext
from hicache_ext.flow.engine import FlowEngine
from hicache_ext.flow.op import Op, Phase
from hicache_ext.flow.record import PrefetchRecord
from hicache_ext.oplog import OpLog

NUM_SLOTS = 64
POOLS = ("full", "swa", "mamba", "indexer")
SCHEMA = TickSchema(POOLS, num_slots=NUM_SLOTS)
NO_PAGES = (0,) * len(POOLS)
HITS = (17, 3, 1, 17)
FREE_PAGES = (500,) * 2 * len(POOLS)  # of each pool on two tiers


class Load(Enum):
    """How many of the ops in flight take a step in each tick."""

    USUAL = 2
    ALL = 1 << 30


class ReadingOp(Op):
    """Waits for a read, over and over."""

    is_ready = False

    def start(self) -> None:
        pass

    def state(self) -> SlotState:
        return SlotState(self.op_id, self.step, self.is_ready, 17, NO_PAGES, HITS)

    def apply(self, agreed: AgreedSlot) -> bool:
        self.is_ready = False
        self._enter(Phase.READ)
        return False

    def finish_read(self) -> None:
        """As the I/O thread does."""
        self.is_ready = True
        self.tell()


def make_engine(
    group: Group, *, depth: int, schema: TickSchema = SCHEMA, load: Load = Load.USUAL
) -> Callable[[], object]:
    """A function that runs one tick of an engine with an op in every slot."""
    policy = BackupPolicy(WritePolicy.WRITE_THROUGH, min_hits=0, watermarks={}, batch_pages=1)
    engine = FlowEngine(
        schema,
        group,
        digest=lambda: 5,
        free_pages=lambda: FREE_PAGES,
        log=OpLog(),
        # Nothing is inserted, so that it never asks its context.
        backups=BackupLine(cast(FlowContext, None), policy),
        depth=depth,
        deadline_s=30.0,
        alarm=Alarm(),
    )
    ops = [ReadingOp(i, PrefetchRecord(i, 0, 0), Phase.READ) for i in range(schema.num_slots)]
    for op in ops:
        engine.add(op)
    num_moving = min(load.value, len(ops))
    starts = list(range(0, len(ops), num_moving))
    num_ticks = 0

    def tick() -> None:
        nonlocal num_ticks
        first = starts[num_ticks % len(starts)]
        num_ticks += 1
        for op in ops[first : first + num_moving]:
            op.finish_read()
        engine.publish()
        engine.apply()

    return tick
