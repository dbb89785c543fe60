"""Load-back, L2 to L1: what a matched prefix lacks on the device comes back from host memory."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from hicache_ext.flow.context import FlowContext
from hicache_ext.flow.pools import Pages
from hicache_ext.flow.record import LoadBackRecord, Outcome
from hicache_ext.flow.transfer import TransferOp
from hicache_ext.tier import Tier
from hicache_ext.tree.results import LoadBackPlan


class LoadBackOp(TransferOp):
    """One load-back on one rank; `on_end` hears at once whether it was committed."""

    record: LoadBackRecord

    def __init__(
        self,
        ctx: FlowContext,
        op_id: int,
        plan: LoadBackPlan,
        on_end: Callable[[bool], None],
    ) -> None:
        record = LoadBackRecord(op_id, dict(plan.num_pages))
        super().__init__(ctx, record, Tier.DEVICE, plan.host_pages)
        self._plan = plan
        self._on_end = on_end

    def _commit(self, pages: Pages) -> Mapping[str, list[int]]:
        return self._ctx.tree.commit_load_back(self._plan, pages)

    def _abandon(self) -> None:
        self._ctx.tree.abort_load_back(self._plan)

    def _finish(self, outcome: Outcome) -> bool:
        self._on_end(outcome == Outcome.COMMITTED)
        return super()._finish(outcome)
