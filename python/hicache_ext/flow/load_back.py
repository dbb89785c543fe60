"""Load-back, L2 to L1: what a matched prefix lacks on the device comes back from host memory.

The copy brings layer after layer. A forward pass may begin once the op has started to copy, and
waits for each layer when it gets there (Load.wait_layer); the tree takes the pages when all ranks
have all of them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from hicache_ext.errors import HiCacheError, TreeError
from hicache_ext.flow.context import FlowContext
from hicache_ext.flow.copies import Copies, LayerCopies
from hicache_ext.flow.pools import Pages
from hicache_ext.flow.record import LoadBackRecord, Outcome
from hicache_ext.flow.transfer import TransferOp
from hicache_ext.tier import Tier
from hicache_ext.tree.results import LoadBackPlan


class Load:
    """A load-back as the request sees it: may the forward pass begin, and with which pages."""

    def __init__(self, op_id: int) -> None:
        self.op_id = op_id
        self.outcome: Outcome | None = None
        self.pages: dict[str, list[int]] = {}
        """Once it has started, what Match.pages will be; they stay valid until the release."""
        self._copies: LayerCopies | None = None

    @property
    def has_started(self) -> bool:
        """Whether all ranks have pages for it and have begun to copy: the same tick on every rank.

        False again once it has failed.
        """
        return bool(self.pages)

    def wait_layer(self, layer: int, stream: Any = None) -> None:
        """Blocks until layer `layer` of every pool is there; with a stream, lets it wait instead.

        A pool counts its own layers from 0. TreeError before it has started, HiCacheError after it
        has failed; a copy that fails later than this shows in the op's record.
        """
        if self.outcome not in (None, Outcome.COMMITTED):
            assert self.outcome is not None
            raise HiCacheError(f"load-back {self.op_id} has ended as {self.outcome.value}")
        if not self.pages:
            raise TreeError(f"load-back {self.op_id} has no pages yet; tick until it has started")
        if self._copies is not None:
            self._copies.wait_layer(layer, stream)

    def _started(self, pages: dict[str, list[int]], copies: LayerCopies) -> None:
        self.pages, self._copies = pages, copies

    def _ended(self, outcome: Outcome) -> None:
        self.outcome, self._copies = outcome, None
        if outcome != Outcome.COMMITTED:
            self.pages = {}


class LoadBackOp(TransferOp):
    """One load-back on one rank."""

    record: LoadBackRecord

    def __init__(
        self,
        ctx: FlowContext,
        load: Load,
        plan: LoadBackPlan,
        on_end: Callable[[bool, Pages], None],
    ) -> None:
        """`on_end` hears at once whether it was committed, and which pages the tree did not need:
        the forward pass may read them, so they are the request's until its end.
        """
        record = LoadBackRecord(load.op_id, dict(plan.num_pages))
        super().__init__(ctx, record, Tier.DEVICE, plan.host_pages)
        self._load = load
        self._plan = plan
        self._on_end = on_end
        self._unused: Pages = {}

    def _start_copy(self, pages: Pages) -> Copies:
        # Before what may fail on this rank alone: calls of the tree are compared across ranks.
        path_pages = self._path_pages(pages)
        copies = self._ctx.pools.copy_layers(self._sources, pages)
        self._load._started(path_pages, copies)
        return copies

    def _path_pages(self, loaded: Pages) -> dict[str, list[int]]:
        """All device pages of the prefix, with those that are being loaded."""
        tree, plan = self._ctx.tree, self._plan
        num_pages = tree.num_tokens(plan.node) // self._ctx.page_size
        pages = {}
        for component in tree.components:
            # Only what the end needs is locked; pages before it can be evicted and reused.
            last = min(component.need(num_pages), num_pages)
            needed = tree.path_pages(plan.node, component.name, Tier.DEVICE, last=last)
            pages[component.name] = [-1] * (num_pages - last) + needed
        taken = dict.fromkeys(pages, 0)
        for span in plan.spans:
            name, first = span.component, taken[span.component]
            taken[name] += len(span.pages)
            end = tree.num_tokens(span.node) // self._ctx.page_size
            pages[name][end - len(span.pages) : end] = loaded[name][first : taken[name]]
        return pages

    def _commit(self, pages: Pages) -> Mapping[str, list[int]]:
        self._unused = self._ctx.tree.commit_load_back(self._plan, pages)
        return self._unused

    def _apply_copy(self) -> bool:
        pages = self._take_pages()
        unused = {name: set(ids) for name, ids in self._commit(pages).items()}
        taken = {n: [i for i in ids if i not in unused[n]] for n, ids in pages.items()}
        self._ctx.pools.settle(Tier.DEVICE, taken, {})
        return self._after_commit()

    def _abandon(self) -> None:
        self._ctx.tree.abort_load_back(self._plan)

    def _finish(self, outcome: Outcome) -> bool:
        self._load._ended(outcome)
        self._on_end(outcome == Outcome.COMMITTED, self._unused)
        return super()._finish(outcome)
