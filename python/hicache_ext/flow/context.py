"""What the flows work on; HiCache fills it in."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from hicache_ext.flow.alarm import Alarm
from hicache_ext.flow.io import Io
from hicache_ext.flow.lent import Lent
from hicache_ext.flow.pools import PoolSet
from hicache_ext.flow.prefetch_rules import PrefetchRules
from hicache_ext.storage.protocol import PageStore
from hicache_ext.tier import Tier
from hicache_ext.tree.radix import RadixTree


@dataclass
class FlowContext:
    """One rank's tree, pools, store and I/O threads."""

    page_size: int
    tree: RadixTree
    pools: PoolSet
    store: PageStore | None
    io: Io
    rules: PrefetchRules
    windows: Mapping[str, int]  # pages of each window pool
    evict_for_reserve: Callable[[Tier, Mapping[str, int]], None]
    alarm: Alarm = field(default_factory=Alarm)
    num_storing: int = 0  # backups that write to the store now; the same on every rank
    max_storing: int = 16
    lent: Lent = field(init=False)
    is_switching: bool = False  # another store, or none, comes once what is in flight has settled

    def __post_init__(self) -> None:
        self.lent = Lent(self.pools, self.io)

    @property
    def can_ask_store(self) -> bool:
        """Whether there is a store, and will be when an op that is made now gets its turn."""
        return self.store is not None and not self.is_switching
