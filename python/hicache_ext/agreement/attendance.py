"""Who else is waiting: how a group that only knows "not complete" names the ranks that are missing.

Nothing is written while ticks complete. A rank that has waited long writes the tick into the
store; whoever then gives up reads what the others wrote. The store may be as dead as the missing
rank, so every access runs in a thread that is left behind when it hangs.
"""

import time
from collections.abc import Callable, Iterable
from typing import Any

from hicache_ext.agreement.deadline import Bounded
from hicache_ext.agreement.group import issued_by_rank
from hicache_ext.errors import AgreementError

_ACCESS_S = 0.25  # a store that takes longer is given up
_SLICE_S = 0.05  # how long Ctrl-C waits
_PATIENCE_S = 0.05  # for a store, while a tick is waited for, and past a deadline
_GROUPS, _WAITS, _NOTE = "hicache/groups/", "waits/", "note/"


_RollCall = Bounded[Any] | None
"""(how many ticks each rank that waits has issued, the notes of the others), by rank."""


class Attendance:
    """Diagnosis only: it is never needed for a tick, and raises nothing but that a rank is late."""

    def __init__(self, store: Any, rank: int, size: int) -> None:
        self._store = store
        self.rank, self.size = rank, size
        self._here: int | None = None
        self._access: Bounded[Any] | None = None  # the last one
        # A store outlives its groups. Ranks make them together, so each can count by itself which
        # one this is, and takes nothing that an earlier one wrote for a sign of life.
        number = self._bounded(lambda s: s.add(f"{_GROUPS}{rank}", 1))
        self._prefix = f"hicache/group/{number}/"

    def wait(
        self, step: Callable[[float], bool], tick: int, num_issued: int, deadline_s: float
    ) -> None:
        """Returns when `step(max_s)`, which waits at most so long, says that `tick` is there.

        AgreementError after `deadline_s`, of which the last quarter is for the roll call: ranks
        that wait for the same tick, and came within half a deadline, have said so by then.
        """
        start = time.monotonic()
        roll: _RollCall = None
        while not step(max(0.0, min(_SLICE_S, start + deadline_s - time.monotonic()))):
            waited_s = time.monotonic() - start
            if waited_s >= deadline_s / 4:
                self.here(tick, num_issued)
            if roll is None and waited_s >= deadline_s * 3 / 4:
                roll = self._ask(tick)
            if waited_s >= deadline_s:
                who, issued = self._tell(roll, tick, num_issued, _PATIENCE_S)
                what = "its start" if tick < 0 else f"tick {tick}"
                raise AgreementError(
                    f"{what}, rank {self.rank} of {self.size}: {who} late after {deadline_s} s"
                    + issued
                )

    def here(self, tick: int, num_issued: int) -> None:
        """This rank waits for `tick` and has issued `num_issued`."""
        if self._here == tick or self.size <= 2:
            return
        key, text = f"{self._prefix}{_WAITS}{self.rank}", f"{tick} {num_issued}"
        access = self._start(lambda store: store.set(key, text))
        if access is not None:
            self._here = tick
            self._end(access, _PATIENCE_S)

    def note(self, text: str) -> None:
        """What the others are told if this rank keeps them waiting."""
        self._bounded(lambda store: store.set(f"{self._prefix}{_NOTE}{self.rank}", text))

    def roll_call(self, tick: int, num_issued: int) -> tuple[str, str]:
        """Who does not wait for `tick`, and the last epoch of each rank, in words.

        E.g. "rank 1 is", "ranks [1, 3] are", or how many it can be at most. Every rank has issued
        all ticks before `tick`, which completed; a missing one has issued no more.
        """
        return self._tell(self._ask(tick), tick, num_issued, _ACCESS_S)

    def _ask(self, tick: int) -> _RollCall:
        others = [rank for rank in range(self.size) if rank != self.rank]

        def read(store: Any) -> Any:
            waiting: dict[int, int] = {}
            if self.size > 2:
                waiting = self._waiting(store, others, tick)
            return waiting, self._read(store, _NOTE, set(others) - waiting.keys())

        return self._start(read)

    def _tell(self, roll: _RollCall, tick: int, num_issued: int, max_s: float) -> tuple[str, str]:
        counts: list[Any] = [f">={max(tick, 0)}"] * self.size
        counts[self.rank] = num_issued
        others = [rank for rank in range(self.size) if rank != self.rank]
        # Of two ranks it is the other one, whatever the store says.
        read: Any = self._end(roll, max_s)
        if read is None and self.size == 2:
            read = {}, {}
        if read is None:
            return f"1 to {len(others)} of the other ranks are", issued_by_rank(counts)
        waiting, notes = read
        for rank in others:
            counts[rank] = waiting.get(rank, max(tick, 0))
        missing = [rank for rank in others if rank not in waiting]
        if not missing:
            who = "every rank waits, so the connection is"
        else:
            who = f"rank {missing[0]} is" if len(missing) == 1 else f"ranks {missing} are"
        says = "".join(f"; rank {rank} says: {text}" for rank, text in notes.items() if text)
        return who, issued_by_rank(counts) + says

    def _read(self, store: Any, what: str, ranks: Iterable[int]) -> dict[int, str]:
        """What each of `ranks` has written, if it has."""
        keys = {rank: f"{self._prefix}{what}{rank}" for rank in ranks}
        return {rank: store.get(key).decode() for rank, key in keys.items() if store.check([key])}

    def _waiting(self, store: Any, ranks: Iterable[int], tick: int) -> dict[int, int]:
        """How many ticks each of `ranks` that waits for `tick` has issued."""
        written = {rank: text.split() for rank, text in self._read(store, _WAITS, ranks).items()}
        return {rank: int(count) for rank, (at, count) in written.items() if int(at) >= tick}

    def _start(self, access: Callable[[Any], Any]) -> Bounded[Any] | None:
        """One at a time: a store that hangs takes one thread with it, not one for each tick."""
        store, last = self._store, self._access
        if store is None or (last is not None and self._hangs(last)):
            return None
        self._access = Bounded(lambda: access(store), "hicache-attendance")
        return self._access

    def _end(self, access: Bounded[Any] | None, max_s: float) -> Any:
        """What it returned; None if it failed or has not ended."""
        if access is None:
            return None
        try:
            return access.result(max_s)
        except TimeoutError:
            self._hangs(access)
        except (RuntimeError, ValueError):
            self._store = None
        return None

    def _hangs(self, access: Bounded[Any]) -> bool:
        if access.has_ended:
            return False
        if access.age_s >= _ACCESS_S:
            self._store = None
        return True

    def _bounded(self, access: Callable[[Any], Any]) -> Any:
        return self._end(self._start(access), _ACCESS_S)
