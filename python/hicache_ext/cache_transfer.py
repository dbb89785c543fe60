"""The part of the cache that moves what a request holds between the tiers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from hicache_ext.cache_base import CacheBase
from hicache_ext.checks import require_whole
from hicache_ext.errors import CapacityError, TreeError
from hicache_ext.flow import kinds
from hicache_ext.flow.load_back import Load, LoadBackOp
from hicache_ext.flow.pools import Pages
from hicache_ext.flow.retract import Parked, ParkOp, ParkState, RestoreOp, check_parked
from hicache_ext.match import Match, check_match
from hicache_ext.tier import Tier


class TransferCalls(CacheBase):
    """Load-back, what it takes, and retraction."""

    def load_back(self, match: Match, max_tokens: int | None = None) -> int | None:
        """Brings the rest of the match from L2 to L1; returns the op id, None if nothing lacks.

        None as well, and the request goes on with its device prefix, where less is on the host than
        `load_back_threshold_tokens` or more than the caller's quota `max_tokens`. When `tick`
        returns the op's record, `match.pages` and `num_device_tokens` are up to date;
        `match.load` tells of it layer by layer, before that.
        """
        self._engine.check_usable()
        check_match(match, self.tree)
        if match.loading:
            raise TreeError(f"a load-back of node {match.node} is in flight for this match")
        if max_tokens is not None:
            require_whole("max_tokens", max_tokens, 0)
        why_not = self._load_back_refusal(match.num_host_tokens, max_tokens)
        if why_not:
            self._history.loaded_back(match.request, None, why_not)
            return None
        plan = self.tree.begin_load_back(match.node)
        if plan is None:
            return None
        load = Load(self._engine.new_id())

        def on_end(committed: bool, unused: Pages) -> None:
            match.loading = False
            if match.released:
                self.pools.free(Tier.DEVICE, unused)
                return
            match.spare = {name: list(ids) for name, ids in unused.items()}
            if committed:
                match.hold(self.tree, match.node, match.num_tokens, self._windows)

        match.loading, match.load = True, load
        op = LoadBackOp(self._ctx, load, plan, on_end)
        self._history.loaded_back(match.request, op.record)
        return self._engine.add(op)

    def _load_back_refusal(self, num_tokens: int, max_tokens: int | None) -> str:
        """Why so many tokens are not worth it, in words; empty if they are."""
        threshold = self.config.load_back_threshold_tokens
        if num_tokens < threshold:
            return f"{num_tokens} tokens on the host are below the threshold of {threshold}"
        if max_tokens is not None and num_tokens > max_tokens:
            return f"{num_tokens} tokens on the host are more than the quota of {max_tokens}"
        return ""

    def device_need(self, match: Match, num_new_tokens: int = 0) -> dict[str, int]:
        """Device pages that the match, its load-back and so many new tokens take: the same on every
        rank. A state counts once for the end of the new tokens.
        """
        check_match(match, self.tree)
        num_new = -(-require_whole("num_new_tokens", num_new_tokens, 0) // self.config.page_size)
        need = {}
        for component in self.tree.components:
            name, reach = component.name, component.need(match.num_tokens // self.config.page_size)
            last = min(reach, match.num_tokens // self.config.page_size)
            device = self.tree.path_pages(match.node, name, Tier.DEVICE, last=last)
            to_load = device.count(-1)  # a match has all that it needs: these are on the host
            need[name] = to_load + (num_new if reach > 1 else min(1, num_new))
        return need

    def can_admit(self, need: Mapping[str, int]) -> bool:
        """Whether so many device pages are free or can be evicted now: the same on every rank.

        Locked pages and those of ops in flight count as taken.
        """
        self.pools.check_need(need)
        for name, num_pages in need.items():
            num_free = self.pools.get(Tier.DEVICE, name).num_free
            if num_pages > num_free + self.tree.page_counts(Tier.DEVICE, name).num_evictable:
                return False
        return True

    # -- retraction ----------------------------------------------------------------------------

    def park(self, match: Match, num_tokens: int, pages: Mapping[str, Sequence[int]]) -> Parked:
        """Retracts a running request: its device pages go to L2, all or none on every rank.

        `pages`: one id per page of `num_tokens` tokens and pool, -1 where the request holds none;
        the last page may be begun. The pages beyond the match are those that alloc handed out.
        When `tick` returns the ParkRecord with COMMITTED, they are free and the match is released;
        otherwise the request goes on (handle.state is RUNNING). Until then it writes none of them.
        """
        self._engine.check_usable()
        check_match(match, self.tree)
        if match.is_parking:
            raise TreeError(f"the request of node {match.node} is being parked already")
        if match.loading:
            raise TreeError(f"park while a load-back of node {match.node} is in flight")
        num_pages = -(-require_whole("num_tokens", num_tokens, 0) // self.config.page_size)
        given = self.pools.checked_ids(pages)
        for name, ids in given.items():
            if len(ids) != num_pages:
                raise CapacityError(f"park: {len(ids)} {name} pages for {num_tokens} tokens")
        self.pools.check_reserved(Tier.DEVICE, given, or_attached=match.pages)
        parked = Parked(self._engine.new_id(), num_tokens, match.namespace, match.request)
        parked.holes = {name: [i < 0 for i in ids] for name, ids in given.items()}
        sources = {name: [i for i in ids if i >= 0] for name, ids in given.items()}
        counts = self.pools.counts({name: len(ids) for name, ids in sources.items()})
        self.tree.log.add(kinds.PARK, parked.op_id, num_tokens, counts)

        def on_end() -> None:
            match.is_parking = False
            if parked.state == ParkState.PARKED:
                self._parked[parked.op_id] = parked
            if parked.state in (ParkState.PARKED, ParkState.GONE):
                self._release(match)

        match.is_parking = True
        op = ParkOp(self._ctx, parked, sources, on_end)
        self._history.retracted(match.request, op.record)
        self._engine.add(op)
        return parked

    def restore(self, parked: Parked) -> int:
        """Brings a parked request back; returns the op id. When `tick` returns the RestoreRecord
        with COMMITTED, `parked.pages` are the caller's, as from alloc; otherwise it stays parked.
        """
        self._engine.check_usable()
        check_parked(parked)
        parked.check_state("restore", ParkState.PARKED)
        self._check_mine(parked)
        op = RestoreOp(self._ctx, self._engine.new_id(), parked, self._forget)
        self._history.retracted(parked.request, op.record)
        return self._engine.add(op)

    def discard(self, parked: Parked) -> None:
        """Gives a retracted request up: at once if it is parked, at the end of its op otherwise."""
        self._engine.check_usable()
        check_parked(parked)
        parked.check_state("discard", ParkState.PARKING, ParkState.PARKED, ParkState.RESTORING)
        if parked.state == ParkState.PARKED:
            self._check_mine(parked)
        self.tree.log.add(kinds.DISCARD, parked.op_id)
        if parked.state == ParkState.PARKED:
            parked.give_up(self.pools)
            self._forget(parked)
        else:
            parked.is_discarded = True

    def _check_mine(self, parked: Parked) -> None:
        if self._parked.get(parked.op_id) is not parked:
            raise TreeError(f"retracted request {parked.op_id} is parked in another cache")

    def _forget(self, parked: Parked) -> None:
        """It holds no host pages any more."""
        self._parked.pop(parked.op_id, None)
