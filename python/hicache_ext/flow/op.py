"""What the three flows share: an op takes a slot of the tick and moves only by what was agreed.

    pending --(a slot is free)--> start() --> [state() -> tick -> apply()] ... --> done

Every rank creates the same ops in the same order, so slot i holds the same op everywhere; the tick
verifies that. `state()` says how far this rank is, `apply()` gets the minimum over all ranks and
is the only place where an op changes its phase.

A pipelined tick brings what was said one step ago, and the op may have moved on since. So an op
counts its transitions, the count travels in the slot, and a result for an older one is dropped: on
every rank, since all have applied the same ticks.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from contextlib import ExitStack
from enum import IntEnum
from heapq import heappop, heappush
from typing import TypeVar

from hicache_ext.agreement.schema import AgreedSlot, SlotState
from hicache_ext.flow.io import Io, start
from hicache_ext.flow.record import Record


class Phase(IntEnum):
    """Where an op is; travels in the tick, so the values are part of the wire format."""

    QUERY = 1  # the store is asked which endpoints it has
    ASK = 2  # the ranks look for the largest endpoint that all have
    RESERVE = 3  # pages are held, the ranks vote
    COPY = 4  # between device and host
    READ = 5  # store to host
    STORE = 6  # host to store
    DRAIN = 7  # aborted or failed on some rank: waiting for I/O that still touches our pages
    DONE = 8
    SWITCH = 9  # another store, or none
    STOP = 10  # the deadline has passed: the reads end at their next batch


_STEP = 16  # above every phase
_T = TypeVar("_T")


class Op:
    """One op of a flow, on one rank."""

    is_alone = False
    """Whether it starts when every op before it is over, and those after it when it is."""
    asks = False
    """Waits for its turn to `ask`."""
    rest_ticks = 0
    """Set when `apply` returns True: it is not over, but wants a slot again after so many ticks."""

    def __init__(self, op_id: int, record: Record, phase: Phase) -> None:
        self.op_id = op_id
        self.record = record
        """How it ended; complete once `apply` has returned True."""
        self.phase = phase
        self.step: int = phase
        """The phase and the number of transitions so far; the same on every rank."""
        self.slot: int | None = None
        self._mailbox: deque[Op] | None = None

    def take_slot(self, slot: int, mailbox: deque[Op]) -> None:
        """From now on it publishes its state in `slot`, whenever it is found in `mailbox`."""
        self.slot, self._mailbox = slot, mailbox
        self.tell()

    def tell(self) -> None:
        """What state() says may have changed: the next tick asks for it. From any thread.

        Who polls tells again in state(). What is not told is not asked: most ops wait for I/O in
        most ticks.
        """
        if self._mailbox is not None:
            self._mailbox.append(self)

    def _call(self, io: Io, call: Callable[[], _T]) -> Future[_T]:
        """Starts a store call whose end is told."""
        future = start(io, call)
        future.add_done_callback(lambda _: self.tell())
        return future

    def _enter(self, phase: Phase) -> None:
        """Takes a transition, maybe to the same phase: what the ranks said before it is void."""
        self.phase = phase
        self.tell()
        self.step = (self.step // _STEP + 1) * _STEP + phase

    def start(self) -> None:
        """Got its slot; may begin local work."""
        raise NotImplementedError

    def state(self) -> SlotState:
        """What this rank publishes in the coming tick."""
        raise NotImplementedError

    def ask(self, num_lanes: int) -> bytes:
        """A byte for each endpoint lane: 1 = this rank has the endpoint. Called before `state`."""
        raise NotImplementedError

    def apply(self, agreed: AgreedSlot) -> bool:
        """Moves on by what was decided; True when the op is over and owns nothing any more.

        All ranks are ready, or `agreed.any_failed`.
        """
        raise NotImplementedError

    def cancel(self) -> None:
        """Gives everything back without asking the other ranks: this rank is shutting down."""
        raise NotImplementedError


class OpTable:
    """The slots of the tick. Ops beyond them wait in line, on every rank in the same order."""

    def __init__(self, num_slots: int) -> None:
        self._free = list(range(num_slots))  # a heap
        self._held: dict[int, Op] = {}  # by slot, in op order
        self._changes: dict[int, SlotState | None] = {}
        self._mailbox: deque[Op] = deque()  # of ops whose state may have changed
        self._asking: set[int] = set()  # slots
        self._pending: deque[Op] = deque()
        self._resting: list[tuple[int, int, Op]] = []  # a heap: by tick, then in op order
        self._tick = 0

    def add(self, op: Op) -> None:
        self._pending.append(op)

    def __len__(self) -> int:
        return len(self._pending) + len(self._held) + len(self._resting)

    @property
    def num_waiting(self) -> int:
        """Ops without a slot."""
        return len(self._pending)

    def admit(self) -> None:
        """Fills free slots, lowest first, in the order of `add`. Once per tick."""
        self._tick += 1
        while self._resting and self._resting[0][0] <= self._tick:
            self._pending.append(heappop(self._resting)[2])
        while self._pending and self._free and not self._has_to_wait(self._pending[0]):
            op = self._pending.popleft()
            slot = heappop(self._free)
            self._held[slot] = op
            op.take_slot(slot, self._mailbox)
            op.start()

    def _has_to_wait(self, op: Op) -> bool:
        held = next(iter(self._held.values()), None)
        return held is not None and (op.is_alone or held.is_alone)

    def say(self, num_endpoint_lanes: int) -> tuple[dict[int, SlotState | None], int | None, bytes]:
        """What changes since the last tick (None: a free slot), who asks, and its endpoints.

        Of the ops that ask for common endpoints the oldest has its turn.
        """
        asking_slot, endpoints = None, b""
        if self._asking:
            asking_slot = min(self._asking, key=lambda slot: self._held[slot].op_id)
            self._asking.remove(asking_slot)
            endpoints = self._held[asking_slot].ask(num_endpoint_lanes)
        for _ in range(len(self._mailbox)):  # what comes while we look is for the next tick
            op = self._mailbox.popleft()
            if op.slot is not None:
                self._changes[op.slot] = op.state()
        changes, self._changes = self._changes, {}
        return changes, asking_slot, endpoints

    def apply(self, agreed: Mapping[int, AgreedSlot]) -> list[Op]:
        """Applies a tick's settled slots, which are in op order; returns the ops that it finished.

        What was said about a step that is over, or about an op that has left its slot, is dropped.
        """
        finished = []
        for slot, result in agreed.items():
            op = self._held.get(slot)
            if op is None or (op.op_id, op.step) != (result.op_id, result.step):
                continue
            if op.apply(result):
                self._release(slot)
                if op.rest_ticks:
                    heappush(self._resting, (self._tick + op.rest_ticks, op.op_id, op))
                    op.rest_ticks = 0
                else:
                    finished.append(op)
            elif op.asks:
                self._asking.add(slot)
            else:
                self._asking.discard(slot)
        return finished

    def _release(self, slot: int) -> None:
        self._held.pop(slot).slot = None
        self._asking.discard(slot)
        self._changes[slot] = None
        heappush(self._free, slot)

    def cancel_all(self) -> None:
        """Youngest first, so that nothing is taken from under an older op; all, if one raises."""
        ops = [*self._held.values(), *self._pending, *(op for *_, op in self._resting)]
        self._resting.clear()
        for slot in list(self._held):
            self._release(slot)
        self._pending.clear()
        with ExitStack() as youngest_first:
            for op in ops:
                youngest_first.callback(op.cancel)
