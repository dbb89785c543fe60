"""Who else is waiting: how a group that only knows "not complete" names the ranks that are missing.

Nothing is written while ticks complete. A rank that has waited long writes the tick into the
store; whoever then gives up reads what the others wrote. The store may be as dead as the missing
rank, so every access runs in a thread that is left behind when it hangs.
"""

import threading
from collections.abc import Callable, Iterable
from typing import Any

from hicache_ext.agreement.group import issued_by_rank

_ACCESS_S = 0.25
_GROUPS, _WAITS, _NOTE = "hicache/groups/", "waits/", "note/"


class Attendance:
    """Diagnosis only: it is never needed for a tick and never raises."""

    def __init__(self, store: Any, rank: int, size: int) -> None:
        self._store = store
        self.rank, self.size = rank, size
        self._written: int | None = None
        # A store outlives its groups. Ranks make them together, so each can count by itself which
        # one this is, and takes nothing that an earlier one wrote for a sign of life.
        number = self._bounded(lambda s: s.add(f"{_GROUPS}{rank}", 1))
        self._prefix = f"hicache/group/{number}/"

    def here(self, tick: int, num_issued: int) -> None:
        """This rank waits for `tick` and has issued `num_issued`."""
        if self._written == tick or self.size <= 2:
            return
        self._written = tick
        self._bounded(
            lambda store: store.set(f"{self._prefix}{_WAITS}{self.rank}", f"{tick} {num_issued}")
        )

    def note(self, text: str) -> None:
        """What the others are told if this rank keeps them waiting."""
        self._bounded(lambda store: store.set(f"{self._prefix}{_NOTE}{self.rank}", text))

    def roll_call(self, tick: int, num_issued: int) -> tuple[str, str]:
        """Who does not wait for `tick`, and the last epoch of each rank, in words.

        E.g. "rank 1 is", "ranks [1, 3] are", or how many it can be at most. Every rank has issued
        all ticks before `tick`, which completed; a missing one has issued no more.
        """
        counts: list[Any] = [f">={max(tick, 0)}"] * self.size
        counts[self.rank] = num_issued
        others = [rank for rank in range(self.size) if rank != self.rank]
        waiting = {} if self.size == 2 else self._bounded(lambda s: self._waiting(s, others, tick))
        if waiting is None:
            return f"1 to {len(others)} of the other ranks are", issued_by_rank(counts)
        for rank in others:
            counts[rank] = waiting.get(rank, max(tick, 0))
        missing = [rank for rank in others if rank not in waiting]
        if not missing:
            who = "every rank waits, so the connection is"
        else:
            who = f"rank {missing[0]} is" if len(missing) == 1 else f"ranks {missing} are"
        notes = self._bounded(lambda s: self._read(s, _NOTE, missing)) or {}
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

    def _bounded(self, access: Callable[[Any], Any]) -> Any:
        """What `access` returns, or None if it fails or hangs; then the store is given up."""
        store = self._store  # a thread that was left behind goes on using it
        if store is None:
            return None
        answer: list[Any] = []

        def run() -> None:
            try:
                answer.append(access(store))
            except (RuntimeError, ValueError):
                self._store = None

        thread = threading.Thread(target=run, daemon=True, name="hicache-attendance")
        thread.start()
        thread.join(_ACCESS_S)
        if thread.is_alive():
            self._store = None
        return answer[0] if answer else None
