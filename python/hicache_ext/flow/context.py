"""What the flows work on; HiCache fills it in."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum

from hicache_ext.flow.io import Io
from hicache_ext.flow.pools import PoolSet
from hicache_ext.storage.protocol import PageStore
from hicache_ext.tier import Tier
from hicache_ext.tree.radix import RadixTree


class ShortWindow(Enum):
    """What happens to the FULL pages of a prefetch whose window did not arrive whole."""

    KEEP_FULL = "keep_full"  # they stay as tombstones until a window joins them
    STRICT = "strict"  # all is dropped


@dataclass
class FlowContext:
    """One rank's tree, pools, store and I/O threads."""

    page_size: int
    tree: RadixTree
    pools: PoolSet
    store: PageStore | None
    io: Io
    short_window: ShortWindow
    prefetch_threshold_tokens: int
    evict_for_reserve: Callable[[Tier, Mapping[str, int]], None]
    is_switching: bool = False  # another store, or none, comes once what is in flight has settled

    @property
    def can_ask_store(self) -> bool:
        """Whether there is a store, and will be when an op that is made now gets its turn."""
        return self.store is not None and not self.is_switching
