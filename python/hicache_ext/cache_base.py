"""What all calls of the cache stand on: tree, pools, store and group wired up, and the tick."""

from __future__ import annotations

from collections.abc import Mapping
from math import ceil

from hicache_ext.agreement.auto import open_group
from hicache_ext.agreement.group import Group
from hicache_ext.agreement.schema import TickSchema
from hicache_ext.config import CacheConfig
from hicache_ext.errors import LayoutError
from hicache_ext.flow.backup_line import BackupLine, BackupPolicy, WritePolicy
from hicache_ext.flow.context import FlowContext
from hicache_ext.flow.engine import FlowEngine
from hicache_ext.flow.full_check import obey_check_variable
from hicache_ext.flow.io import Io, ThreadIo
from hicache_ext.flow.pools import PoolSet
from hicache_ext.flow.prefetches import Prefetches
from hicache_ext.flow.record import Record
from hicache_ext.flow.retract import Parked
from hicache_ext.history import History
from hicache_ext.keys import page_keys, token_hash
from hicache_ext.match import Match
from hicache_ext.pool import PagePool
from hicache_ext.stats import CacheStats
from hicache_ext.storage.protocol import PageStore
from hicache_ext.tier import Tier
from hicache_ext.tree.radix import RadixTree
from hicache_ext.tree.results import HostPaths

_DEEP = 1 << 62  # pages


class CacheBase:
    """One rank's tree, pools and engine; HiCache adds the calls of a request."""

    def __init__(
        self,
        config: CacheConfig,
        device: Mapping[str, PagePool],
        host: Mapping[str, PagePool],
        store: PageStore | None = None,
        group: Group | str | None = None,
        io: Io | None = None,
        has_events: bool = False,
    ) -> None:
        """`has_events`: this rank tells routers what the cache holds, see take_events()."""
        components = config.components()
        names = [c.name for c in components]
        if list(device) != [*names, *config.sidecars]:
            wanted = [*names, *config.sidecars]
            raise LayoutError(f"pools {list(device)} do not fit components {wanted}")
        self.config = config
        self.pools = PoolSet(
            device, host, config.page_size, store is not None, sidecars=config.sidecars
        )
        is_write_back = config.write_policy == WritePolicy.WRITE_BACK
        self.tree = RadixTree(
            config.page_size,
            components,
            page_keys=page_keys,
            token_hash=token_hash,
            unit=config.key_unit,
            host_paths=HostPaths.GAPS if is_write_back else HostPaths.WHOLE,
            strategy=config.evict_strategy,
            has_events=has_events,
            core="auto",
        )
        self.stats = CacheStats()
        self._history = History()
        # What an end needs, however deep it lies; a state is a window of one page.
        self._windows = {c.name: c.need(_DEEP) for c in components[1:]}
        self._io = io or ThreadIo()
        self._ctx = FlowContext(
            page_size=config.page_size,
            tree=self.tree,
            pools=self.pools,
            store=store,
            io=self._io,
            rules=config.prefetch,
            windows=self._windows,
            evict_for_reserve=self._make_room,
            max_storing=config.max_store_writes,
        )
        self._parked: dict[int, Parked] = {}  # those that hold host pages, by op id
        # `alloc` evicts by what its own pool lacks: that must be the same on every rank.
        check = obey_check_variable(self.tree)
        same = f"{config}, device pages {self.pools.sizes(Tier.DEVICE)}, check {check!r}"
        schema = TickSchema(names, config.num_slots, config.num_endpoint_lanes, config=same)
        self.group, self._leave = open_group(group, schema.num_lanes, config.tick_deadline_s)
        self._backups = BackupLine(self._ctx, self._backup_policy())
        self._engine = FlowEngine(
            schema,
            self.group,
            digest=lambda: self.tree.digest,
            free_pages=self.pools.num_free,
            backups=self._backups,
            log=self.tree.log,
            depth=config.tick_depth,
            deadline_s=config.tick_deadline_s,
            alarm=self._ctx.alarm,
        )
        self._prefetches = Prefetches(self._ctx, self._engine.new_id, self._engine.add)

    def evict(self, tier: Tier, num_pages: Mapping[str, int]) -> None:
        """Frees that many pages per pool, least recently used first, if they are unlocked."""
        self._engine.check_usable()
        self.pools.take_back(self.tree.evict(tier, num_pages))

    def _make_room(self, tier: Tier, num_pages: Mapping[str, int]) -> None:
        """The same for an op; a full host gives up copies of what the device has, too."""
        evicted = self.tree.evict(tier, num_pages)
        self.pools.take_back(evicted)
        freed = evicted.on(tier)
        lacking = {name: max(0, num - len(freed[name])) for name, num in num_pages.items()}
        if tier == Tier.HOST and any(lacking.values()):
            self.pools.take_back(self.tree.drop_duplicates(lacking))

    def _backup_policy(self) -> BackupPolicy:
        config, sizes = self.config, self.pools.sizes(Tier.DEVICE)
        return BackupPolicy(
            config.write_policy,
            config.min_backup_hits,
            {
                name: ceil(num_pages * config.write_back_watermark)
                for name, num_pages in zip(self.pools.names, sizes, strict=True)
            },
            config.backup_batch_pages,
        )

    # -- the tick ----------------------------------------------------------------------------

    @property
    def num_in_flight(self) -> int:
        """Ops that some later tick will end."""
        return self._engine.num_in_flight

    def num_free_pages(self, tier: Tier) -> dict[str, int]:
        """The fewest free pages of any rank, by pool and by the last tick applied; 0 before it."""
        return self.pools.of_tier(tier, self._engine.agreed_free_pages)

    @property
    def num_lent_pages(self) -> int:
        """Host pages of this rank that store calls still hold which hang and were given up."""
        return self._ctx.lent.num_pages

    def tick(self) -> list[Record]:
        """Once per scheduler step, on every rank: says how far it is, and applies what all said
        `tick_depth` ticks ago; returns the ops that ended.

        Raises:
            AgreementError: a rank is late, dead or of another opinion. The cache is then unusable;
                `close` still gives every page back.
            HiCacheError: the cache is closed, or another thread is in a tick.
            What else goes wrong on this rank, such as a TreeError: the cache is unusable, too.
        """
        self.publish()
        return self.apply()

    def publish(self) -> None:
        """The first half of `tick`: says how far this rank is. Does not wait."""
        self._ctx.lent.take_back()
        self._engine.publish()

    def apply(self) -> list[Record]:
        """The second half of `tick`: waits for what was said `tick_depth` ticks ago, applies it."""
        return self._ended(self._engine.apply())

    def drain(self) -> list[Record]:
        """Ticks until nothing is in flight, no tick either; as many on every rank."""
        return self._ended(self._engine.drain())

    def _ended(self, records: list[Record]) -> list[Record]:
        self._prefetches.forget(records)
        self.stats.count_records(records)
        self.stats.count_waiting(self._engine.num_waiting, self._engine.max_waiting)
        self.stats.num_hung_ops = len(self._ctx.lent)
        return records

    def close(self) -> None:
        """Stops: waits for local I/O, gives back what ops in flight hold, asks no other rank.

        HiCacheError, and nothing is closed, while another thread is in a tick.
        """
        self._engine.close(self._free_parked, self._ctx.lent.wait, self._io.close, self._leave)

    def _release(self, match: Match) -> None:
        match.drop(self.tree)
        self.pools.free(Tier.DEVICE, match.spare)
        match.spare = {}

    def _free_parked(self) -> None:
        for parked in self._parked.values():
            parked.give_up(self.pools)
        self._parked.clear()

    def check_integrity(self) -> None:
        """The tree's invariants, and that the tree owns exactly the attached pages of each pool."""
        self.tree.check_integrity()
        self.pools.check_owned(self._owned_pages)

    def _owned_pages(self, tier: Tier, name: str) -> list[int]:
        """And those that it gave up while a store call that hangs reads them."""
        kept = self._ctx.lent.kept(name) if tier == Tier.HOST else []
        return self.tree.owned_pages(tier, name) + kept
