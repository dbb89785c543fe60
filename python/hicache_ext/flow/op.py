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
from typing import TypeVar

from hicache_ext.agreement.schema import AgreedSlot, SlotState
from hicache_ext.flow.record import Record


class Phase(IntEnum):
    """Where an op is; travels in the tick, so the values are part of the wire format."""

    QUERY = 1  # asking the store which endpoints it has; agreeing on one
    RESERVE = 2  # pages are held, the ranks vote
    COPY = 3  # between device and host
    READ = 4  # store to host
    STORE = 5  # host to store
    DRAIN = 6  # aborted or failed on some rank: waiting for I/O that still touches our pages
    DONE = 7
    SWITCH = 8  # another store, or none


_STEP = 16  # above every phase
_T = TypeVar("_T")


class Op:
    """One op of a flow, on one rank."""

    is_alone = False
    """Whether it starts when every op before it is over, and those after it when it is."""

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

    def apply(self, agreed: AgreedSlot) -> bool:
        """Moves on by what all ranks agreed; True when the op is over and owns nothing any more."""
        raise NotImplementedError

    def cancel(self) -> None:
        """Gives everything back without asking the other ranks: this rank is shutting down."""
        raise NotImplementedError


class OpTable:
    """The slots of the tick. Ops beyond them wait in line, on every rank in the same order."""

    def __init__(self, num_slots: int) -> None:
        self._slots: list[Op | None] = [None] * num_slots
        self._states: dict[int, SlotState] = {}
        self._pending: deque[Op] = deque()

    def add(self, op: Op) -> None:
        self._pending.append(op)

    def __len__(self) -> int:
        return len(self._pending) + sum(op is not None for op in self._slots)

    def admit(self) -> None:
        """Fills free slots, lowest first, in the order of `add`."""
        for slot, op in enumerate(self._slots):
            if not self._pending or self._has_to_wait(self._pending[0]):
                return
            if op is None:
                op = self._pending.popleft()
                self._slots[slot] = op
                op.start()

    def _has_to_wait(self, op: Op) -> bool:
        held = next((other for other in self._slots if other is not None), None)
        return held is not None and (op.is_alone or held.is_alone)

    def states(self) -> dict[int, SlotState]:
        """What this rank publishes, by slot; the same objects as before where nothing is new."""
        for slot, op in enumerate(self._slots):
            if op is not None and op.has_news:
                self._states[slot] = op.state()
        return self._states

    def apply(self, agreed: Mapping[int, AgreedSlot]) -> list[Op]:
        """Applies a tick's settled slots in op order; returns the ops that it finished.

        What was said about a step that is over, or about an op that has left its slot, is dropped.
        """
        finished = []
        for slot, result in sorted(agreed.items(), key=lambda item: item[1].op_id):
            op = self._slots[slot]
            if op is None or (op.op_id, op.step) != (result.op_id, result.step):
                continue
            if op.apply(result):
                self._slots[slot] = None
                del self._states[slot]
                finished.append(op)
        return finished

    def cancel_all(self) -> None:
        """Youngest first, so that nothing is taken from under an older op."""
        held = [op for op in self._slots if op is not None] + list(self._pending)
        self._slots = [None] * len(self._slots)
        self._states.clear()
        self._pending.clear()
        for op in sorted(held, key=lambda op: -op.op_id):
            op.cancel()
