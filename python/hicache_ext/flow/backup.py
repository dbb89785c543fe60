"""Backup, L1 to L2 to L3: the pages of some nodes go to host memory, then to the store.

After RESERVE and COPY (transfer.py) the tree has the host pages, and
    STORE    writes them to the store, locked until every rank has written its own;
             a failed write is a later miss, no more; one that hangs is given up by vote, and this
             rank keeps its pages from being used anew until it returns
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field

from hicache_ext.agreement.schema import AgreedSlot, SlotState
from hicache_ext.flow.context import FlowContext
from hicache_ext.flow.hang import HUNG, Watch
from hicache_ext.flow.io import settle, wait
from hicache_ext.flow.op import Phase
from hicache_ext.flow.pools import Pages
from hicache_ext.flow.record import BackupRecord, Drop, Outcome
from hicache_ext.flow.transfer import TransferOp
from hicache_ext.flow.write import Writes, Written, write_missing
from hicache_ext.storage.limit import Limit
from hicache_ext.tier import Tier
from hicache_ext.tree.radix import RadixTree
from hicache_ext.tree.results import BackupPlan, Receipt


@dataclass
class BackupRequest:
    """What the device has of the path to `node`, or of its `last` pages, and the host has not."""

    node: int
    last: int | None = None
    min_hits: int = 0
    told: Callable[[BackupRecord], None] | None = None  # hears of each op that takes it
    num_tries: int = 0
    _pin: Receipt | None = field(default=None, repr=False)

    @property
    def is_cold(self) -> bool:
        """A victim of write-back, which is looked for anew rather than tried again."""
        return self.last is not None

    @property
    def is_pinned(self) -> bool:
        """Whether its node is sure to be there when it begins."""
        return self._pin is not None

    def pin(self, tree: RadixTree, num_pages: Mapping[str, int]) -> None:
        """Keeps the last pages before the node's end on the device until the backup begins."""
        self._pin = tree.lock(self.node, Tier.DEVICE, num_pages)

    def unpin(self, tree: RadixTree) -> None:
        """The backup has begun, or will not."""
        if self._pin is not None:
            tree.unlock(self._pin)
        self._pin = None


class BackupOp(TransferOp):
    """One backup on one rank, of all requests that it could take."""

    record: BackupRecord

    def __init__(self, ctx: FlowContext) -> None:
        super().__init__(ctx, BackupRecord(0, {}), Tier.HOST, {})
        self.requests: list[BackupRequest] = []
        self._plans: list[BackupPlan] = []
        self._spans: set[tuple[int, str]] = set()  # nodes and components that are in a plan
        self._num_pages = dict.fromkeys(ctx.pools.names, 0)
        self._stop = Limit()
        self._host_pins: list[Receipt] = []
        self._store: Future[Written] | None = None
        self._num_writes = 0  # pages ...
        self._written: Pages = {}  # ... and their ids on the host
        self._watch = Watch(self, ctx)

    def take(self, request: BackupRequest, most_pages: int) -> bool:
        """Adds the request, or finds that it has nothing to do; False if it has to wait.

        It waits where pages are in this op already, where the op would get larger than
        `most_pages` of a pool, and, after a failure, for an op of its own.
        """
        if self.requests and (request.num_tries or self.requests[0].num_tries):
            return False
        tree = self._ctx.tree
        plan = tree.begin_backup(request.node, last=request.last, min_hits=request.min_hits)
        if plan is None:
            request.unpin(tree)
            return True
        spans = {(span.node, span.component) for span in plan.spans}
        total = {name: self._num_pages[name] + num for name, num in plan.num_pages.items()}
        if self.requests and (max(total.values()) > most_pages or spans & self._spans):
            tree.abort_backup(plan)
            return False
        request.unpin(tree)  # the plan pins the same pages
        # What the plan hangs on must not lose its host copy to the memory that the op asks for.
        self._host_pins.append(tree.lock(plan.node, Tier.HOST, {}))
        self.requests.append(request)
        self._plans.append(plan)
        self._spans |= spans
        self._num_pages = total
        return True

    def begin(self, op_id: int) -> None:
        """All requests are taken."""
        self.op_id = self.record.op_id = op_id
        self.record.num_requests = len(self.requests)
        self.record.num_pages = self._num_pages
        self._sources = {
            name: [page for plan in self._plans for page in plan.device_pages[name]]
            for name in self._num_pages
        }
        for request in self.requests:
            request.num_tries += 1
            if request.told is not None:
                request.told(self.record)

    @property
    def in_tree(self) -> bool:
        """The host pages are attached or given up: the next backup may start."""
        return self.phase in (Phase.STORE, Phase.DONE)

    def state(self) -> SlotState:
        if self.phase != Phase.STORE:
            return super().state()
        zeros = (0,) * len(self._ctx.pools.names)
        ready, short = self._store is None or self._store.done(), zeros
        if not ready and self._watch.hangs():
            ready, short = True, (HUNG, *zeros[1:])
        return SlotState(self.op_id, self.step, ready, 0, short, zeros)

    def apply(self, agreed: AgreedSlot) -> bool:
        if self.phase != Phase.STORE:
            return super().apply(agreed)
        return self._apply_store()

    def _make_room(self, tier: Tier, num_pages: Mapping[str, int]) -> None:
        if self.requests[0].is_cold:
            # Not for copies of what the device has, too: those are cold victims of before, which
            # would be backed up again in their turn, and so on for ever.
            self._ctx.pools.take_back(self._ctx.tree.evict(tier, num_pages))
        else:
            super()._make_room(tier, num_pages)

    def _commit(self, pages: Pages) -> Mapping[str, list[int]]:
        """Each plan gets its part, in order."""
        unused: dict[str, list[int]] = {name: [] for name in pages}
        taken = dict.fromkeys(pages, 0)
        for plan in self._plans:
            mine = {}
            for name, num_pages in plan.num_pages.items():
                mine[name] = pages[name][taken[name] : taken[name] + num_pages]
                taken[name] += num_pages
            for name, ids in self._ctx.tree.commit_backup(plan, mine).items():
                unused[name] += ids
        return unused

    def _abandon(self) -> None:
        for plan in self._plans:
            self._ctx.tree.abort_backup(plan)

    def _after_commit(self) -> bool:
        if self._ctx.store is None:
            return self._finish(Outcome.COMMITTED)
        writes = self._lock_writes()
        self._num_writes, self._written = writes.num_pages, writes.page_ids
        if self._ctx.num_storing >= self._ctx.max_storing:
            self.record.drop(Drop.STORE_BUSY, self._num_writes)
            return self._finish(Outcome.COMMITTED)
        self._ctx.num_storing += 1
        self._watch.moved()
        self._store = self._call(self._ctx.io, lambda: self._write(writes))
        self._enter(Phase.STORE)
        return False

    def _lock_writes(self) -> Writes:
        """Locks the host pages of the plans, so that eviction cannot reuse them under the write."""
        tree, writes = self._ctx.tree, Writes(self._ctx.pools)
        for plan in self._plans:
            self._host_pins.append(tree.lock(plan.node, Tier.HOST, plan.reach))
            for span in plan.spans:
                ids = tree.path_pages(span.node, span.component, Tier.HOST, last=span.num_pages)
                # Absent (-1) where the parent has lost its host copy, or between two states.
                writes.add(span.component, tree.keys(span.node)[-span.num_pages :], ids)
        return writes

    def _write(self, writes: Writes) -> Written:
        """Runs on an I/O thread."""
        store = self._ctx.store
        assert store is not None
        return write_missing(store, writes, self._stop, self._watch.moved)

    def _apply_store(self) -> bool:
        """Every rank has written, or some hang. Those pages are in the tree, which may give them
        up from now on.
        """
        assert self._store is not None
        written, error = Written(num_refused=self._num_writes), None
        if self._store.done():
            written, error = settle(self._store, written, "backup to the store")
        else:
            self._stop.cancel()
            self._ctx.lent.lend([self._store], {}, self._written)
            error = f"backup {self.op_id}: a store call hangs and was given up"
        if error:
            self.record.local_errors.append(error)
        self.record.drop(Drop.NOT_WRITTEN, written.num_refused)
        self.record.num_stored_pages = written.num_pages
        self.record.num_stored_bytes = sum(
            n * self._ctx.pools.get(Tier.HOST, name).spec.page_bytes
            for name, n in written.num_pages.items()
        )
        self._store = None
        self._ctx.num_storing -= 1
        return self._finish(Outcome.COMMITTED)

    def _finish(self, outcome: Outcome) -> bool:
        self._unpin()
        return super()._finish(outcome)

    def _unpin(self) -> None:
        for receipt in self._host_pins:
            self._ctx.tree.unlock(receipt)
        self._host_pins = []

    def cancel(self) -> None:
        self._stop.cancel()
        if self._store is not None:
            wait(self._store)  # the I/O thread still reads our pages
        self._store = None  # its error's traceback holds on to the pools' buffers
        self._unpin()
        super().cancel()
