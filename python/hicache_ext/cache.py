"""HiCache, the facade that a serving loop uses. It wires tree, pools, store and group.

One request's life (every rank makes the same calls in the same order):

    match ----> prefetch ----> tick, tick ... ----> match ----> load_back ----> tick, tick ...
    L1+L2 hit   asks L3         ranks agree,        now longer  L2 -> L1         pages are in L1
                                read, commit
    alloc ----> (forward) ----> insert ----> ... ----> release
    new pages   writes KV       the tree owns them,    the prefix may be evicted,
                                backed up to L2, L3    the tree keeps it if it can
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from hicache_ext.agreement.auto import open_group
from hicache_ext.agreement.group import Group
from hicache_ext.agreement.schema import TickSchema
from hicache_ext.config import CacheConfig
from hicache_ext.errors import LayoutError, TreeError
from hicache_ext.flow import kinds
from hicache_ext.flow.backup import BackupOp
from hicache_ext.flow.context import FlowContext
from hicache_ext.flow.engine import FlowEngine
from hicache_ext.flow.full_check import obey_check_variable
from hicache_ext.flow.io import Io, ThreadIo
from hicache_ext.flow.load_back import LoadBackOp
from hicache_ext.flow.pools import PoolSet
from hicache_ext.flow.prefetch import PrefetchOp
from hicache_ext.flow.record import PrefetchRecord, Record, StoreAction, StoreRecord
from hicache_ext.flow.span import find_span
from hicache_ext.flow.store_switch import StoreSwitch, check_switch
from hicache_ext.keys import page_keys, token_hash
from hicache_ext.match import Match
from hicache_ext.pool import PagePool
from hicache_ext.stats import CacheStats
from hicache_ext.storage.protocol import PageStore
from hicache_ext.tier import Tier
from hicache_ext.tree.components.swa import Swa
from hicache_ext.tree.key import pack_tokens
from hicache_ext.tree.radix import RadixTree

Tokens = Sequence[int] | bytes


class HiCache:
    """The cache of one rank.

    Pools, store and group are the caller's and outlive the cache, but not a `group` that is given
    as a kind ("auto", see make_group). One scheduler thread calls it; store calls run on `io`.
    """

    def __init__(
        self,
        config: CacheConfig,
        device: Mapping[str, PagePool],
        host: Mapping[str, PagePool],
        store: PageStore | None = None,
        group: Group | str | None = None,
        io: Io | None = None,
    ) -> None:
        components = config.components()
        names = [c.name for c in components]
        if list(device) != names:
            raise LayoutError(f"pools {list(device)} do not fit components {names}")
        self.config = config
        self.pools = PoolSet(device, host, config.page_size, needs_page_view=store is not None)
        self.tree = RadixTree(
            config.page_size, components, page_keys=page_keys, token_hash=token_hash
        )
        self.stats = CacheStats()
        self._windows = {c.name: c.window_pages for c in components[1:] if isinstance(c, Swa)}
        self._io = io or ThreadIo()
        self._ctx = FlowContext(
            page_size=config.page_size,
            tree=self.tree,
            pools=self.pools,
            store=store,
            io=self._io,
            short_window=config.short_window,
            prefetch_threshold_tokens=config.prefetch_threshold_tokens,
            evict_for_reserve=self.evict,
        )
        self._prefetches: dict[int, PrefetchOp] = {}
        # `alloc` evicts by what its own pool lacks: that must be the same on every rank.
        check = obey_check_variable(self.tree)
        same = f"{config}, device pages {self.pools.sizes(Tier.DEVICE)}, check {check!r}"
        schema = TickSchema(names, config.num_slots, config.num_endpoint_lanes, config=same)
        self.group, self._leave = open_group(group, schema.num_lanes, config.tick_deadline_s)
        self._engine = FlowEngine(
            schema,
            self.group,
            digest=lambda: self.tree.digest,
            free_pages=self.pools.num_free,
            log=self.tree.log,
            depth=config.tick_depth,
            deadline_s=config.tick_deadline_s,
        )

    # -- one request -------------------------------------------------------------------------

    def match(self, tokens: Tokens, namespace: bytes = b"") -> Match:
        """Finds and locks the longest prefix that L1 and L2 can restore, whole pages only.

        The caller must `release` the match. To keep one token to compute, pass `tokens[:-1]`.
        """
        self._engine.check_usable()
        packed = pack_tokens(tokens)
        found = self.tree.match_prefix(packed, namespace)
        match = Match(packed, namespace, found.node, found.num_tokens)
        match.hold(self.tree, found.device_node, found.num_device_tokens, self._windows)
        self.stats.count_match(found.num_device_tokens, match.num_host_tokens)
        return match

    def prefetch(self, tokens: Tokens, namespace: bytes = b"") -> int | None:
        """Asks L3 for what L1 and L2 lack of `tokens`; returns the op id, None if nothing to ask.

        The span ends one token before the prompt's end, page aligned, where a later `match` will
        look. The pages are in L2 once `tick` returns the op's PrefetchRecord.
        """
        self._engine.check_usable()
        if not self._ctx.can_ask_store:
            return None
        span = find_span(self.tree, pack_tokens(tokens), namespace, self._windows)
        if span is None or span.num_tokens < self.config.prefetch_threshold_tokens:
            return None
        record = PrefetchRecord(self._engine.new_id(), span.num_matched_tokens, span.num_tokens)
        op = PrefetchOp(self._ctx, record.op_id, span, record)
        self._prefetches[op.op_id] = op
        return self._engine.add(op)

    def abort(self, op_id: int) -> bool:
        """Gives up a prefetch at the next tick, on all ranks; False if it is over already."""
        op = self._prefetches.get(op_id)
        if op is not None:
            op.abort()
        return op is not None

    def load_back(self, match: Match) -> int | None:
        """Brings the rest of the match from L2 to L1; returns the op id, None if nothing lacks.

        When `tick` returns the op's record, `match.pages` and `num_device_tokens` are up to date.
        """
        self._engine.check_usable()
        match.check_held()
        if match.loading:
            raise TreeError(f"a load-back of node {match.node} is in flight for this match")
        plan = self.tree.begin_load_back(match.node)
        if plan is None:
            return None

        def on_end(committed: bool) -> None:
            match.loading = False
            if committed and not match.released:
                match.hold(self.tree, match.node, match.num_tokens, self._windows)

        op = LoadBackOp(self._ctx, self._engine.new_id(), plan, on_end)
        match.loading = True
        return self._engine.add(op)

    def alloc(self, num_pages: Mapping[str, int]) -> dict[str, list[int]] | None:
        """Device pages for new tokens, evicting if needed: all of them, or None.

        The caller owns them until it hands them to `insert` or `free`.
        """
        self._engine.check_usable()
        held = self.pools.reserve(Tier.DEVICE, num_pages)
        if held is None and self.pools.fits(Tier.DEVICE, num_pages):
            self.evict(Tier.DEVICE, self.pools.shortage(Tier.DEVICE, num_pages))
            held = self.pools.reserve(Tier.DEVICE, num_pages)
        self.tree.log.add(kinds.ALLOC, self.pools.counts(num_pages), held is not None)
        return held

    def free(self, pages: Mapping[str, Sequence[int]]) -> None:
        """Gives back device pages that `alloc` handed out; holes (-1) are skipped."""
        self.pools.check_reserved(Tier.DEVICE, pages)
        owned = {name: [i for i in ids if i >= 0] for name, ids in pages.items()}
        self.pools.free(Tier.DEVICE, owned)
        num_freed = {name: len(ids) for name, ids in owned.items()}
        self.tree.log.add(kinds.FREE, self.pools.counts(num_freed))

    def insert(self, match: Match, tokens: Tokens, pages: Mapping[str, Sequence[int]]) -> None:
        """Hands the pages of `tokens` to the tree; `match` then covers and locks all of them.

        Shapes: `tokens` is a whole number of pages that begins with the matched prefix; `pages`
        has one id per page and pool, -1 before the window where the request holds none. What the
        tree had already is freed: use `match.pages` afterwards, not the ids given. New nodes are
        written through to L2 and L3 by the coming ticks.
        """
        self._engine.check_usable()
        match.check_held()
        packed = pack_tokens(tokens)
        if len(packed) % (4 * self.config.page_size):
            num_tokens, size = len(packed) // 4, self.config.page_size
            raise LayoutError(f"{num_tokens} tokens are no whole number of pages of {size}")
        given = {n: list(pages[n]) for n in self.pools.names}
        match.check_extends(packed, given, self._windows)
        self.pools.check_reserved(Tier.DEVICE, given, or_attached=match.pages)
        result = self.tree.insert(packed, given, match.namespace)
        self.pools.settle(Tier.DEVICE, given, result.released)
        match.tokens, match.node, match.num_tokens = packed, result.node, result.num_tokens
        match.hold(self.tree, result.node, result.num_tokens, self._windows)
        num_new = (result.num_tokens - result.num_present_tokens) // self.config.page_size
        self._engine.add_backup(BackupOp(self._ctx, result.node, num_new))

    def release(self, match: Match) -> None:
        """Drops the locks; the prefix stays cached until it is evicted."""
        match.drop(self.tree)

    def evict(self, tier: Tier, num_pages: Mapping[str, int]) -> None:
        """Frees that many pages per pool, least recently used first, if they are unlocked."""
        self.pools.take_back(self.tree.evict(tier, num_pages))

    def flush(self, *tiers: Tier) -> None:
        """Empties L1 and L2, or the given tiers, of what is not locked. Needs no op in flight."""
        self._engine.check_usable()
        if num := self._engine.num_in_flight:
            raise TreeError(f"flush with {num} ops in flight; call drain() first")
        for tier in tiers or (Tier.DEVICE, Tier.HOST):
            self.pools.take_back(self.tree.clear(tier))

    def attach_store(self, store: PageStore | None) -> int:
        """Gives an L3 to a cache that has none, on all ranks or on none; returns the op id.

        It is there once `tick` returns the op's StoreRecord: what is in flight ends first, what
        comes later waits. A rank with nothing to attach gives None: the op then fails everywhere.
        """
        return self._switch_store(StoreAction.ATTACH, store)

    def detach_store(self) -> int:
        """Takes L3 away in the same way; once the op is over, its caller may close the store."""
        return self._switch_store(StoreAction.DETACH, None)

    def _switch_store(self, action: StoreAction, store: PageStore | None) -> int:
        self._engine.check_usable()
        check_switch(self._ctx, action)
        op = StoreSwitch(self._ctx, StoreRecord(self._engine.new_id(), action), store)
        return self._engine.add(op)

    # -- the tick ----------------------------------------------------------------------------

    @property
    def num_in_flight(self) -> int:
        """Ops that some later tick will end."""
        return self._engine.num_in_flight

    def num_free_pages(self, tier: Tier) -> dict[str, int]:
        """The fewest free pages of any rank, by pool and by the last tick applied; 0 before it."""
        return self.pools.of_tier(tier, self._engine.agreed_free_pages)

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
        self._engine.publish()

    def apply(self) -> list[Record]:
        """The second half of `tick`: waits for what was said `tick_depth` ticks ago, applies it."""
        return self._ended(self._engine.apply())

    def drain(self) -> list[Record]:
        """Ticks until nothing is in flight, no tick either; as many on every rank."""
        return self._ended(self._engine.drain())

    def _ended(self, records: list[Record]) -> list[Record]:
        for record in records:
            self._prefetches.pop(record.op_id, None)
        self.stats.count_records(records)
        self.stats.count_waiting(self._engine.num_waiting, self._engine.max_waiting)
        return records

    def close(self) -> None:
        """Stops: waits for local I/O, gives back what ops in flight hold, asks no other rank.

        HiCacheError, and nothing is closed, while another thread is in a tick.
        """
        self._engine.close(self._io.close, self._leave)

    def __enter__(self) -> HiCache:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def check_integrity(self) -> None:
        """The tree's invariants, and that the tree owns exactly the attached pages of each pool."""
        self.tree.check_integrity()
        self.pools.check_owned(self.tree.owned_pages)
