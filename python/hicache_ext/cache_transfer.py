"""The part of the cache that moves what a request holds between the tiers."""

from __future__ import annotations

from hicache_ext.cache_base import CacheBase
from hicache_ext.errors import TreeError
from hicache_ext.flow.load_back import LoadBackOp
from hicache_ext.match import Match, check_match


class TransferCalls(CacheBase):
    """Load-back."""

    def load_back(self, match: Match) -> int | None:
        """Brings the rest of the match from L2 to L1; returns the op id, None if nothing lacks.

        When `tick` returns the op's record, `match.pages` and `num_device_tokens` are up to date.
        """
        self._engine.check_usable()
        check_match(match, self.tree)
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
        self._history.loaded_back(match.request, op.record)
        return self._engine.add(op)
