"""Order of eviction: which of the candidates goes first. The same on every rank: no wall time.

    lru       least recently used
    lfu       fewest hits
    slru      hit once only, then the rest; least recently used in either segment
    fifo      oldest
    priority  lowest priority

A strategy is one number per node, and the smallest goes. While the node lives the number may only
grow: the queues find out late that it has (queue.py). Equals go by last use, then age, then depth.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum

from hicache_ext.errors import LayoutError
from hicache_ext.tree.node import Node

NUM_PROTECTING_HITS = 2  # a node that was found again after it was made


class Strategy(str, Enum):
    """Names of the strategies, as a configuration writes them."""

    LRU = "lru"
    LFU = "lfu"
    SLRU = "slru"
    FIFO = "fifo"
    PRIORITY = "priority"

    @classmethod
    def of(cls, name: str) -> Strategy:
        """The strategy of that name; LayoutError with the known ones otherwise."""
        try:
            return cls(name)
        except ValueError:
            known = [strategy.value for strategy in cls]
            raise LayoutError(f"eviction strategy {name!r} is unknown; known are {known}") from None


NodeValue = Callable[[Node], int]

VALUES: dict[Strategy, NodeValue] = {
    Strategy.LRU: lambda node: 0,
    Strategy.LFU: lambda node: node.num_hits,
    Strategy.SLRU: lambda node: int(node.num_hits >= NUM_PROTECTING_HITS),
    Strategy.FIFO: lambda node: node.made_at,
    Strategy.PRIORITY: lambda node: node.priority,
}
