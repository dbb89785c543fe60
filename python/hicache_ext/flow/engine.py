"""Runs the flows of one rank: one fixed-shape collective per tick moves all ops by its result.

Pipelined: at depth 1 tick k publishes epoch k and applies epoch k - 1, whatever else has arrived,
so that all ranks apply the same one. The collective has a whole scheduler step of time, and a rank
waits only for a peer that is a whole step behind. At depth 0 tick k applies epoch k.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import ExitStack
from typing import NamedTuple

from hicache_ext.agreement.group import Group
from hicache_ext.agreement.postmortem import Exchange, explain, fail_alone
from hicache_ext.agreement.schema import LaneError, Lanes, Packer, TickHeader, TickSchema, unpack
from hicache_ext.errors import AgreementError, HiCacheError
from hicache_ext.flow import kinds
from hicache_ext.flow.alarm import Alarm
from hicache_ext.flow.backup_line import BackupLine
from hicache_ext.flow.op import Op, OpTable
from hicache_ext.flow.record import Record
from hicache_ext.flow.store_switch import StoreSwitch
from hicache_ext.oplog import OpKind, OpLog

logger = logging.getLogger("hicache_ext")

DRAIN_PAUSE_S = 0.0002  # between ticks that ended nothing: the I/O threads want the core more


class Published(NamedTuple):
    """A tick that was issued and is not yet applied."""

    epoch: int
    lanes: Lanes  # what this rank said


class FlowEngine:
    """The ops in flight and the tick that moves them."""

    def __init__(
        self,
        schema: TickSchema,
        group: Group,
        *,
        digest: Callable[[], int],
        free_pages: Callable[[], tuple[int, ...]],
        backups: BackupLine,
        log: OpLog,
        depth: int,
        deadline_s: float,
        alarm: Alarm,
    ) -> None:
        self._schema, self._packer = schema, Packer(schema)
        self._group = group
        self._digest = digest
        self._free_pages = free_pages
        self._log = log
        log.add(OpKind.literal(f"schema: {schema.text}"))
        self._alarm = alarm
        self._depth = depth
        self._deadline_s = deadline_s
        self._ops = OpTable(schema.num_slots)
        self._backups = backups
        self._published: deque[Published] = deque()
        self._may_apply = False
        self._epoch = 0
        self._num_ops = 0
        self._broken: AgreementError | None = None
        self._closed = False
        self._alone = Alone()
        self.max_waiting = 0
        self.agreed_free_pages = (0,) * len(free_pages())
        """The fewest of any rank, by the last tick applied; 0 before the first."""

    @property
    def num_in_flight(self) -> int:
        return len(self._ops) + len(self._backups)

    @property
    def num_waiting(self) -> int:
        """Ops that wait in line for a slot, and backups for those before them."""
        return self._ops.num_waiting + len(self._backups)

    def new_id(self) -> int:
        """The next op's id: every rank creates the same ops in the same order."""
        self._num_ops += 1
        return self._num_ops

    def add(self, op: Op) -> int:
        """Puts an op in line; returns its id."""
        self._log.add(kinds.OP, op.op_id, op.phase)
        if isinstance(op, StoreSwitch) and len(self._backups):
            self._backups.add_switch(op)
        else:
            self._ops.add(op)
        return op.op_id

    def check_usable(self) -> None:
        """Raises once the cache is closed or the ranks have parted."""
        if self._closed:
            raise HiCacheError("the cache is closed")
        if self._broken is not None:
            raise AgreementError(f"the ranks no longer agree: {self._broken}") from self._broken

    def publish(self) -> None:
        """Says how far this rank is; does not wait."""
        with self._alone:
            self.check_usable()
            if self._may_apply:
                raise HiCacheError(f"publish twice: tick {self._epoch} waits for its apply")
            self._epoch += 1
            try:
                self._publish()
            except BaseException as error:
                self._fail(error, self._epoch)
                raise
            self._may_apply = True

    def _publish(self) -> None:
        self._begin_backups()
        self._ops.admit()
        self._alarm.ring()
        self.max_waiting = max(self.max_waiting, self.num_waiting)
        self._log.add(kinds.TICK, self._epoch)
        lanes = self._pack()
        try:
            self._group.issue(lanes)
        except AgreementError as error:
            self._broken = error
            raise
        self._published.append(Published(self._epoch, lanes))

    def apply(self) -> list[Record]:
        """Applies what was agreed `depth` ticks ago; returns the ops that ended."""
        with self._alone:
            self.check_usable()
            if not self._may_apply:
                raise HiCacheError("apply without a publish before it")
            ended = self._apply_oldest() if len(self._published) > self._depth else []
            self._may_apply = False  # not if Ctrl-C came while it waited: then it can go on
            return ended

    def drain(self) -> list[Record]:
        """Ticks until nothing is in flight; every rank sees that at the same tick."""
        records: list[Record] = []
        while self.num_in_flight:
            self.publish()
            ended = self.apply()
            records += ended
            if not ended:
                time.sleep(DRAIN_PAUSE_S)
        with self._alone:
            self.check_usable()
            while self._published:  # no op is left that it could move, but all have agreed on it
                self._apply_oldest()
        return records

    def close(self, *last: Callable[[], None]) -> None:
        """Waits for local I/O, gives back what the ops hold, then calls `last`; asks no other rank.

        All of it, if something raises. Not while another thread ticks: it moves the ops.
        """
        with self._alone, ExitStack() as last_first:
            self._closed = True
            for call in reversed(last):
                last_first.callback(call)
            last_first.callback(self._ops.cancel_all)
            last_first.callback(self._backups.cancel)

    def _begin_backups(self) -> None:
        for op in self._backups.begin(self._epoch, self.new_id, self.agreed_free_pages):
            if isinstance(op, StoreSwitch):
                self._ops.add(op)
            else:
                self.add(op)

    def _pack(self) -> Lanes:
        changes, asking_slot, endpoints = self._ops.say(self._schema.num_endpoint_lanes)
        header = TickHeader(
            self._epoch,
            self._digest(),
            self._num_ops,
            self._log.hash,
            self.num_waiting,
            asking_slot,
            self._free_pages(),
        )
        return self._packer.pack(header, changes, endpoints)

    def _apply_oldest(self) -> list[Record]:
        """Waits for ranks that have not issued it yet."""
        epoch, mine = self._published[0]
        try:
            lanes = self._group.result(self._deadline_s)
            agreed = unpack(self._schema, lanes, epoch, mine)
        except LaneError as error:
            self._broken = error
            self._broken = explain(error, mine, self._exchange(), self._log)
            raise self._broken from error
        except AgreementError as error:
            self._broken = error
            raise
        self._published.popleft()
        self.agreed_free_pages = agreed.free_pages
        try:
            return [op.record for op in self._ops.apply(agreed.slots)]
        except BaseException as error:
            self._fail(error, epoch)
            raise

    def _fail(self, error: BaseException, epoch: int) -> None:
        """This rank has stopped half-way through a tick that the others have made: for good."""
        if self._broken is None:
            self._broken = fail_alone(error, epoch, self._group, self._log)
            logger.error("%s", self._broken)

    def _exchange(self) -> Exchange:
        """The group after the oldest tick was collected, which all ranks have then."""
        num_issued = len(self._published) - 1
        return Exchange(self._group, self._schema.num_lanes, num_issued, self._deadline_s)


class Alone:
    """A scope for one thread at a time; one that finds another in it raises, it does not wait."""

    def __init__(self) -> None:
        self._lock = threading.Lock()

    def __enter__(self) -> None:
        if not self._lock.acquire(blocking=False):
            raise HiCacheError("tick or close from two threads: one scheduler thread does both")

    def __exit__(self, *error: object) -> None:
        self._lock.release()
