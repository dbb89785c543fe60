"""HiCache, the facade that a serving loop uses. Its parts: cache_base.py (wiring, tick),
cache_prefetch.py (L3 to L2), cache_transfer.py (L1 and L2), cache_store.py (L3 comes and goes),
cache_events.py (what it tells).

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
from functools import partial

from hicache_ext.cache_events import EventCalls
from hicache_ext.cache_prefetch import PrefetchCalls
from hicache_ext.cache_store import StoreCalls
from hicache_ext.cache_transfer import TransferCalls
from hicache_ext.errors import LayoutError, TreeError
from hicache_ext.flow import kinds
from hicache_ext.history import Matched, checked_name
from hicache_ext.match import Match, check_match
from hicache_ext.tier import Tier
from hicache_ext.tree.lock import check_tier

Tokens = Sequence[int] | bytes


class HiCache(PrefetchCalls, TransferCalls, StoreCalls, EventCalls):
    """The cache of one rank.

    Pools, store and group are the caller's and outlive the cache, but not a `group` that is given
    as a kind ("auto", see make_group). One scheduler thread calls it; store calls run on `io`.
    """

    def match(self, tokens: Tokens, namespace: bytes = b"", request: str | None = None) -> Match:
        """Finds and locks the longest prefix that L1 and L2 can restore, whole pages only.

        The caller must `release` the match. To keep one token to compute, pass `tokens[:-1]`; with
        bigram keys pass all: the last token is never matched. `namespace` is a Namespace's key.
        `request`: a name for `explain`.
        """
        self._engine.check_usable()
        packed, request = self.tree.pack(tokens), checked_name(request)
        found = self.tree.match_prefix(packed, namespace)
        match = Match(packed, namespace, found.node, found.num_tokens, request=request)
        match.num_branching_tokens = found.num_branching_tokens
        match.hold(self.tree, found.device_node, found.num_device_tokens, self._windows)
        self.stats.count_match(found.num_device_tokens, match.num_host_tokens)
        num_asked = len(packed) // self.tree.unit.num_bytes
        ends = found.num_device_tokens, found.num_tokens, found.num_full_tokens
        self._history.matched(request, Matched(num_asked, *ends))
        return match

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

    def insert(
        self, match: Match, tokens: Tokens, pages: Mapping[str, Sequence[int]], priority: int = 0
    ) -> None:
        """Hands the pages of `tokens` to the tree; `match` then covers and locks all of them.

        Shapes: `tokens` is a whole number of pages that begins with the matched prefix; `pages`
        has one id per page and pool, -1 before the window where the request holds none. What the
        tree had already is freed: use `match.pages` afterwards, not the ids given. New nodes are
        written through to L2 and L3 by the coming ticks. `priority` is for the eviction strategy of
        that name.
        """
        self._engine.check_usable()
        check_match(match, self.tree)
        packed = self.tree.pack(tokens)
        num_positions = len(packed) // self.tree.unit.num_bytes
        if num_positions % self.config.page_size:
            what, size = self.tree.unit.value, self.config.page_size
            raise LayoutError(f"{num_positions} {what}s are no whole number of pages of {size}")
        given = self.pools.checked_ids(pages)
        match.check_extends(packed, given, self._windows, self.tree.unit.num_bytes)
        self.pools.check_reserved(Tier.DEVICE, given, or_attached=match.pages)
        result = self.tree.insert(packed, given, match.namespace, priority)
        self.pools.settle(Tier.DEVICE, given, result.released)
        match.tokens, match.node, match.num_tokens = packed, result.node, result.num_tokens
        match.hold(self.tree, result.node, result.num_tokens, self._windows)
        num_new = (result.num_tokens - result.num_present_tokens) // self.config.page_size
        told = partial(self._history.backed_up, match.request) if match.request else None
        self._backups.inserted(result.node, num_new, told)

    def release_windows(self, match: Match) -> None:
        """Drops the locks of windows and states early, once decode is a window past the prefix."""
        check_match(match, self.tree)
        if match.loading:
            raise TreeError(f"a load-back of node {match.node} is in flight for this match")
        match.release_windows(self.tree, self._windows)

    def release(self, match: Match) -> None:
        """Drops the locks; the prefix stays cached until it is evicted."""
        check_match(match, self.tree)
        if match.is_parking:
            raise TreeError(f"release of node {match.node}, whose request is being parked")
        self._release(match)

    def flush(self, *tiers: Tier) -> None:
        """Empties L1 and L2, or the given tiers, of what is not locked. Needs no op in flight."""
        self._engine.check_usable()
        if num := self._engine.num_in_flight:
            raise TreeError(f"flush with {num} ops in flight; call drain() first")
        for tier in [check_tier(tier) for tier in tiers or (Tier.DEVICE, Tier.HOST)]:
            self.pools.take_back(self.tree.clear(tier))

    def __enter__(self) -> HiCache:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()
