"""The line of backups: what is to go to the host, when, and once more after a failure.

    insert, or a cold victim (write_back) ----> waiting ----> one op for all that wait ----> in tree
                                                   ^                       |
                                                   +--- after a while <----+ failed

One op copies at a time, and takes all that waits at the tick: one copy launch, one store batch.
What shares pages with it comes in the next, so nothing is copied twice. All of this follows from
calls and ticks alone: the line is the same on every rank.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from enum import Enum

from hicache_ext.errors import TreeError
from hicache_ext.flow.backup import BackupOp, BackupRequest
from hicache_ext.flow.context import FlowContext
from hicache_ext.flow.record import BackupRecord, Outcome
from hicache_ext.flow.store_switch import StoreSwitch
from hicache_ext.tier import Tier

MAX_TRIES = 3
FIRST_LOOK = 3  # the tick at which all ranks' free pages are known at any depth
PAUSE_TICKS = 16  # before the second try; twice as long before each further one


class WritePolicy(Enum):
    """When pages go from the device to the host, and on to the store."""

    WRITE_THROUGH = "write_through"  # at the next tick after they were inserted
    SELECTIVE = "write_through_selective"  # the same, once they have had enough hits
    WRITE_BACK = "write_back"  # when the device is about to run out of pages: the coldest


@dataclass(frozen=True)
class BackupPolicy:
    """What the line obeys; equal on every rank."""

    write: WritePolicy
    min_hits: int  # SELECTIVE: of a node
    watermarks: dict[str, int]  # WRITE_BACK: free device pages per pool below which it copies
    batch_pages: int  # the most pages of a pool in one op, unless one request has more


class BackupLine:
    """What waits for its backup, in order, and the op that copies."""

    def __init__(self, ctx: FlowContext, policy: BackupPolicy) -> None:
        self._ctx, self._policy = ctx, policy
        self._waiting: deque[BackupRequest | StoreSwitch] = deque()
        self._retries: list[tuple[int, BackupRequest]] = []  # with the tick from which on
        self._copying: BackupOp | None = None
        self._cold_from = FIRST_LOOK  # the tick from which on cold pages are looked for again

    def __len__(self) -> int:
        """What waits; not what failed and has to wait a while, which nobody waits for."""
        return len(self._waiting)

    def add_switch(self, switch: StoreSwitch) -> None:
        """A switch of the store comes after the backups before it."""
        self._waiting.append(switch)

    def inserted(
        self,
        node: int,
        num_new_pages: int,
        told: Callable[[BackupRecord], None] | None = None,
    ) -> None:
        """The last `num_new_pages` before the node's end are new on the device. `told` hears of
        each backup that takes them.
        """
        if self._policy.write == WritePolicy.WRITE_BACK:
            return
        selects = self._policy.write == WritePolicy.SELECTIVE
        request = BackupRequest(node, min_hits=self._policy.min_hits if selects else 0, told=told)
        request.pin(self._ctx.tree, dict.fromkeys(self._ctx.pools.names, num_new_pages))
        self._waiting.append(request)

    def begin(
        self, epoch: int, new_id: Callable[[], int], free: tuple[int, ...]
    ) -> Iterator[BackupOp | StoreSwitch]:
        """The ops that start in this tick. `free`: pages that all ranks have, as in the tick."""
        if self._copying is not None and not self._copying.in_tree:
            return
        self._look_back(epoch)
        self._look_for_cold(epoch, free)
        while self._waiting and (self._copying is None or self._copying.in_tree):
            first = self._waiting[0]
            if isinstance(first, StoreSwitch):
                self._waiting.popleft()
                yield first
                continue
            op = BackupOp(self._ctx)
            self._fill(op)
            if op.requests:
                op.begin(new_id())
                self._copying = op
                yield op

    def _fill(self, op: BackupOp) -> None:
        """Moves to the op what waits before the next switch and shares no page with it."""
        stay: list[BackupRequest | StoreSwitch] = []
        while self._waiting and not isinstance(self._waiting[0], StoreSwitch):
            request = self._waiting.popleft()
            assert isinstance(request, BackupRequest)
            if request.is_pinned or self._is_alive(request.node):
                is_taken = op.take(request, self._policy.batch_pages)
            else:
                is_taken = True  # evicted while it waited: nothing is left of it
            if not is_taken:
                stay.append(request)
        self._waiting.extendleft(reversed(stay))

    def _look_back(self, epoch: int) -> None:
        """Puts what failed in line again, once its time has come."""
        op, self._copying = self._copying, None
        if op is not None and op.record.outcome in (Outcome.CAPACITY, Outcome.FAILED):
            self._cold_from = epoch + PAUSE_TICKS
            for request in op.requests:
                if request.num_tries < MAX_TRIES and not request.is_cold:
                    pause = PAUSE_TICKS << (request.num_tries - 1)
                    self._retries.append((epoch + pause, request))
        if not self._retries:
            return
        due = [request for at, request in self._retries if at <= epoch]
        self._retries = [(at, request) for at, request in self._retries if at > epoch]
        self._waiting.extend(due)

    def _is_alive(self, node: int) -> bool:
        try:
            self._ctx.tree.num_tokens(node)
        except TreeError:
            return False
        return True

    def _look_for_cold(self, epoch: int, free: tuple[int, ...]) -> None:
        """Write-back: the next victims of the device that the host has not, before they are taken.

        One batch at a time: while one is under way, its pages are no victims and the next ones
        would be taken for it.
        """
        if self._policy.write != WritePolicy.WRITE_BACK or self._waiting or epoch < self._cold_from:
            return
        tree = self._ctx.tree
        free_on_device = self._ctx.pools.of_tier(Tier.DEVICE, free)
        for name, watermark in self._policy.watermarks.items():
            short = watermark - free_on_device[name]
            if short <= 0:
                continue
            for node in tree.coldest(Tier.DEVICE, name, short):
                if tree.path_pages(node, name, Tier.HOST, last=1) == [-1]:
                    self._waiting.append(BackupRequest(node, last=1))

    def cancel(self) -> None:
        """Unpins what waits; ops that have begun are the table's."""
        with ExitStack() as last_first:
            for waiting in self._waiting:
                if isinstance(waiting, BackupRequest):
                    last_first.callback(waiting.unpin, self._ctx.tree)
                else:
                    last_first.callback(waiting.cancel)
            self._waiting.clear()
            self._retries.clear()
