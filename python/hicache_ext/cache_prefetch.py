"""The calls of a request that come before it is computed: what L3 has of it comes to L2."""

from __future__ import annotations

from collections.abc import Sequence

from hicache_ext.cache_base import CacheBase
from hicache_ext.flow.prefetch_rules import Refusal
from hicache_ext.flow.span import Request
from hicache_ext.history import checked_name


class PrefetchCalls(CacheBase):
    """Part of HiCache; docs/prefetch.md has the whole of it."""

    def prefetch(
        self, tokens: Sequence[int] | bytes, namespace: bytes = b"", request: str | None = None
    ) -> int | None:
        """Asks L3 for what L1 and L2 lack of `tokens`; returns the op id, or None: see `refusal`.

        The span ends one token before the prompt's end, page aligned, where a later `match` will
        look. The pages are in L2 once `tick` returns the op's PrefetchRecord. `request`: a name for
        `explain`.
        """
        self._engine.check_usable()
        packed, request = self.tree.pack(tokens), checked_name(request)
        op = self._prefetches.begin(Request(packed, namespace))
        self.stats.count_refusal(self.refusal)
        why_not = "" if self.refusal is None else self.refusal.words
        self._history.prefetched(request, None if op is None else op.record, why_not)
        return None if op is None else op.op_id

    @property
    def refusal(self) -> Refusal | None:
        """Why the last `prefetch` returned None; the same on every rank."""
        return self._prefetches.refusal

    def poll(self, op_id: int) -> bool:
        """Whether the request of a prefetch should go on; False: it is worth its while to wait.

        To be called on every rank at the same step, whenever the request could go on. The first
        call starts the deadline of `config.prefetch`, after which the request takes what is there.
        An op that is over, or never was, keeps nobody.
        """
        self._engine.check_usable()
        return self._prefetches.poll(op_id)

    def abort(self, op_id: int) -> bool:
        """Gives up a prefetch at the next tick, on all ranks; False if it is over already."""
        return self._prefetches.abort(op_id)
