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
from collections.abc import Mapping
from concurrent.futures import Future
from enum import IntEnum
from heapq import heappop, heappush
from typing import NamedTuple, TypeVar

from hicache_ext.agreement.schema import AgreedSlot, SlotState
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


_STEP = 16  # above every phase
_T = TypeVar("_T")


class Op:
    """One op of a flow, on one rank."""

    is_alone = False
    """Whether it starts when every op before it is over, and those after it when it is."""
    asks = False
    """Waits for its turn to `ask`."""

    def __init__(self, op_id: int, record: Record, phase: Phase) -> None:
        self.op_id = op_id
        self.record = record
        """How it ended; complete once `apply` has returned True."""
        self.phase = phase
        self.step: int = phase
        """The phase and the number of transitions so far; the same on every rank."""
        self.has_news = True
        """Whether state() may differ from what it last was: else it is not asked again. An op that
        takes it back has to set it when something changes, from whatever thread."""

    def _watch(self, future: Future[_T]) -> Future[_T]:
        """A future whose end is news."""
        future.add_done_callback(self._end_of_watch)
        return future

    def _end_of_watch(self, future: Future[_T]) -> None:
        self.has_news = True

    def _enter(self, phase: Phase) -> None:
        """Takes a transition, maybe to the same phase: what the ranks said before it is void."""
        self.phase = phase
        self.has_news = True
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


class Said(NamedTuple):
    """What the ops of this rank publish in one tick."""

    slots: dict[int, SlotState]
    asking_slot: int | None
    endpoints: bytes  # of the op in that slot


class OpTable:
    """The slots of the tick. Ops beyond them wait in line, on every rank in the same order."""

    def __init__(self, num_slots: int) -> None:
        self._free = list(range(num_slots))  # a heap
        self._held: dict[int, Op] = {}  # by slot, in op order
        self._states: dict[int, SlotState] = {}
        self._pending: deque[Op] = deque()

    def add(self, op: Op) -> None:
        self._pending.append(op)

    def __len__(self) -> int:
        return len(self._pending) + len(self._held)

    @property
    def num_waiting(self) -> int:
        """Ops without a slot."""
        return len(self._pending)

    def admit(self) -> None:
        """Fills free slots, lowest first, in the order of `add`."""
        while self._pending and self._free and not self._has_to_wait(self._pending[0]):
            op = self._pending.popleft()
            self._held[heappop(self._free)] = op
            op.start()

    def _has_to_wait(self, op: Op) -> bool:
        held = next(iter(self._held.values()), None)
        return held is not None and (op.is_alone or held.is_alone)

    def say(self, num_endpoint_lanes: int) -> Said:
        """What all ops publish, the same objects as before where nothing is new.

        Of the ops that ask for common endpoints, the oldest has its turn.
        """
        asking_slot, endpoints = None, b""
        for slot, op in self._held.items():
            if op.asks and asking_slot is None:
                asking_slot, endpoints = slot, op.ask(num_endpoint_lanes)
            if op.has_news:
                self._states[slot] = op.state()
        return Said(self._states, asking_slot, endpoints)

    def apply(self, agreed: Mapping[int, AgreedSlot]) -> list[Op]:
        """Applies a tick's settled slots in op order; returns the ops that it finished.

        What was said about a step that is over, or about an op that has left its slot, is dropped.
        """
        finished = []
        for slot, result in sorted(agreed.items(), key=lambda item: item[1].op_id):
            op = self._held.get(slot)
            if op is None or (op.op_id, op.step) != (result.op_id, result.step):
                continue
            if op.apply(result):
                del self._held[slot], self._states[slot]
                heappush(self._free, slot)
                finished.append(op)
        return finished

    def cancel_all(self) -> None:
        """Youngest first, so that nothing is taken from under an older op."""
        ops = [*self._held.values(), *self._pending]
        self._held.clear()
        self._states.clear()
        self._pending.clear()
        for op in reversed(ops):
            op.cancel()
