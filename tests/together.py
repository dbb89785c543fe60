"""Simulated ranks that wait for each other, each in a thread of its own."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from hicache_ext.agreement.hierarchical import HierarchicalGroup
from hicache_ext.agreement.local import LocalGroup

_BOARD = threading.RLock()


class WaitingGroup(LocalGroup):
    """A LocalGroup whose result() waits: use `WaitingGroup.simulated(n)`, one thread per rank.
    `in_vain_s` is how long it was to wait for what did not come.
    """

    in_vain_s = 0.0

    def issue(self, lanes: Any) -> None:
        with _BOARD:
            super().issue(lanes)

    def ready(self) -> bool:
        with _BOARD:
            return super().ready()

    def result(self, deadline_s: float) -> Any:
        end_s = time.monotonic() + deadline_s
        while not (self.ready() or self._board.closed) and time.monotonic() < end_s:
            time.sleep(0.0005)
        if not self.ready():
            self.in_vain_s += deadline_s
        with _BOARD:
            return super().result(0)


def on_two_hosts(size: int, num_lanes: int) -> list[HierarchicalGroup]:
    """`size` ranks that wait for each other; the last one is alone on its host."""
    hosts = [list(range(size - 1)), [size - 1]]
    inside, answers = [
        [group for ranks in hosts for group in WaitingGroup.simulated(len(ranks))] for _ in range(2)
    ]
    between = {ranks[0]: g for ranks, g in zip(hosts, WaitingGroup.simulated(2), strict=True)}
    return [
        HierarchicalGroup(
            inside[rank],
            answers[rank],
            between.get(rank),
            hosts=hosts,
            rank=rank,
            num_lanes=num_lanes,
        )
        for rank in range(size)
    ]


def together(call: Callable[[Any], Any], ranks: list[Any]) -> list[Any]:
    """`call` of each rank, all at once; what it returned or raised, by rank."""

    def outcome(rank: Any) -> Any:
        try:
            return call(rank)
        except Exception as error:
            return error

    with ThreadPoolExecutor(len(ranks)) as pool:
        return list(pool.map(outcome, ranks))
