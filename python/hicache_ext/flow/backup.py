"""Backup, L1 to L2 to L3: a node's pages go to host memory, then to the store (write-through).

After RESERVE and COPY (transfer.py) the tree has the host pages, and
    STORE    writes them to the store, locked until every rank has written its own;
             a failed write is a later miss, no more
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from concurrent.futures import Future

from hicache_ext.agreement.schema import AgreedSlot, SlotState
from hicache_ext.flow.context import FlowContext
from hicache_ext.flow.io import settle, wait
from hicache_ext.flow.op import Phase
from hicache_ext.flow.pools import Pages
from hicache_ext.flow.record import BackupRecord, Outcome
from hicache_ext.flow.transfer import TransferOp
from hicache_ext.tier import Tier
from hicache_ext.tree.results import BackupPlan, Receipt

Writes = dict[str, tuple[list[bytes], list[memoryview]]]  # per pool: keys and pages


class BackupOp(TransferOp):
    """One backup on one rank: what the path to a node has on the device only, when it begins."""

    record: BackupRecord

    def __init__(self, ctx: FlowContext, node: int, num_new_pages: int) -> None:
        """Pins the last `num_new_pages` before the node's end until `begin`."""
        record = BackupRecord(0, {})
        super().__init__(ctx, record, Tier.HOST, {})
        self._node = node
        new = {name: num_new_pages for name in ctx.pools.names}
        self._pin: Receipt | None = ctx.tree.lock(node, Tier.DEVICE, new)
        self._plan: BackupPlan | None = None
        self._stop = threading.Event()
        self._host_pin: Receipt | None = None
        self._store: Future[dict[str, int]] | None = None

    def begin(self, op_id: int) -> bool:
        """Lists what is to copy; False if there is nothing left to do, and the op is over."""
        self.op_id = self.record.op_id = op_id
        self._plan = self._ctx.tree.begin_backup(self._node)
        self._unpin()
        if self._plan is None:
            self._enter(Phase.DONE)
            return False
        self.record.num_pages = dict(self._plan.num_pages)
        self._sources = self._plan.device_pages
        return True

    @property
    def in_tree(self) -> bool:
        """The host pages are attached or given up: a backup further down may start."""
        return self.phase in (Phase.STORE, Phase.DONE)

    def state(self) -> SlotState:
        if self.phase != Phase.STORE:
            return super().state()
        zeros = (0,) * len(self._ctx.pools.names)
        ready = self._store is None or self._store.done()
        return SlotState(self.op_id, self.step, ready, 0, zeros, zeros)

    def apply(self, agreed: AgreedSlot) -> bool:
        if self.phase != Phase.STORE:
            return super().apply(agreed)
        return self._apply_store()

    def _commit(self, pages: Pages) -> Mapping[str, list[int]]:
        assert self._plan is not None
        return self._ctx.tree.commit_backup(self._plan, pages)

    def _abandon(self) -> None:
        if self._plan is not None:
            self._ctx.tree.abort_backup(self._plan)

    def _after_commit(self) -> bool:
        if self._ctx.store is None:
            return self._finish(Outcome.COMMITTED)
        writes = self._lock_writes()
        self._store = self._call(self._ctx.io, lambda: self._write(writes))
        self._enter(Phase.STORE)
        return False

    def _lock_writes(self) -> Writes:
        """Locks the host pages of the plan, so that eviction cannot reuse them under the write."""
        tree, plan = self._ctx.tree, self._plan
        assert plan is not None
        self._host_pin = tree.lock(plan.node, Tier.HOST, plan.reach)
        writes: Writes = {}
        for span in plan.spans:
            keys, pages = writes.setdefault(span.component, ([], []))
            host = self._ctx.pools.get(Tier.HOST, span.component)
            ids = tree.path_pages(span.node, span.component, Tier.HOST, last=span.num_pages)
            for key, page_id in zip(tree.keys(span.node)[-span.num_pages :], ids, strict=True):
                if page_id >= 0:  # absent where the parent has lost its host copy
                    keys.append(key)
                    pages.append(host.page_view(page_id))
        return writes

    def _write(self, writes: Writes) -> dict[str, int]:
        """Runs on an I/O thread; returns the pages stored per pool."""
        store = self._ctx.store
        assert store is not None
        num_stored = {}
        # FULL pages last: an endpoint shows in the store only once its window is there.
        for name, (keys, pages) in sorted(writes.items(), key=lambda item: item[0] == "full"):
            if not self._stop.is_set():
                num_stored[name] = sum(store.write_from(name, keys, pages))
        return num_stored

    def _apply_store(self) -> bool:
        assert self._store is not None
        num_stored, error = settle(self._store, {}, "backup to the store")
        if error:
            self.record.local_errors.append(error)
        self.record.num_stored_pages = num_stored
        self.record.num_stored_bytes = sum(
            n * self._ctx.pools.get(Tier.HOST, name).spec.page_bytes
            for name, n in num_stored.items()
        )
        self._store = None
        self._unpin()
        return self._finish(Outcome.COMMITTED)

    def _unpin(self) -> None:
        for receipt in (self._pin, self._host_pin):
            if receipt is not None:
                self._ctx.tree.unlock(receipt)
        self._pin = self._host_pin = None

    def cancel(self) -> None:
        self._stop.set()
        if self._store is not None:
            wait(self._store)  # the I/O thread still reads our pages
        self._store = None  # its error's traceback holds on to the pools' buffers
        self._unpin()
        super().cancel()
