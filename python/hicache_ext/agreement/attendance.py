"""Who else is waiting: how a group that only knows "not complete" names the ranks that are missing.

Nothing is written while ticks complete. A rank that has waited long writes the tick into the
store; whoever then gives up reads what the others wrote. The store may be as dead as the missing
rank, so every access runs in a thread that is left behind when it hangs.
"""

import threading
from collections.abc import Callable
from typing import Any

_ACCESS_S = 0.25


class Attendance:
    """Diagnosis only: it is never needed for a tick and never raises."""

    def __init__(self, store: Any, rank: int, size: int) -> None:
        self._store = store
        self.rank, self.size = rank, size
        self._written: int | None = None

    def here(self, tick: int) -> None:
        """This rank waits for `tick`."""
        if self._written == tick or self.size <= 2:
            return
        self._written = tick
        self._bounded(lambda store: store.set(_key(self.rank), str(tick)))

    def describe_missing(self, tick: int) -> str:
        """E.g. "rank 1 is", "ranks [1, 3] are", or how many it can be at most."""
        if self.size == 2:
            return f"rank {1 - self.rank} is"
        others = [rank for rank in range(self.size) if rank != self.rank]
        seen = self._bounded(lambda store: [r for r in others if _has_come(store, r, tick)])
        if seen is None:
            return f"1 to {len(others)} of the other ranks are"
        missing = [rank for rank in others if rank not in seen]
        if not missing:
            return "every rank waits, so the connection is"
        return f"rank {missing[0]} is" if len(missing) == 1 else f"ranks {missing} are"

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


def _key(rank: int) -> str:
    return f"hicache/waits/{rank}"


def _has_come(store: Any, rank: int, tick: int) -> bool:
    return bool(store.check([_key(rank)])) and int(store.get(_key(rank))) >= tick
