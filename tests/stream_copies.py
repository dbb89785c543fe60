"""Copies on streams of the emulated CUDA, which are under way for some time and end in any order:
those of the flows, and the reads and writes of a forward pass."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import numpy as np
from emulated_cuda import emulated_cuda, pinned

from hicache_ext.copy import copy_pages, copy_set, scatter_pages
from hicache_ext.cuda_copy import Priority
from hicache_ext.flow import pools as flow_pools
from hicache_ext.hazards import Hazards
from hicache_ext.layout import PagedBuffer
from hicache_ext.plan_set import PlanSet
from hicache_ext.pool import PagePool
from hicache_ext.ticket import Ticket


class StreamCopies:
    """Starts copies on one of three streams, at random."""

    def __init__(self, cuda: Any, seed: int) -> None:
        self.cuda = cuda
        self.num_late = 0  # under way when whoever started them went on
        self.num_waits = 0  # of a later copy, or of alloc(), for one that was under way
        self._random = random.Random(seed)
        self._streams = [cuda.create_stream() for _ in range(3)]
        self._pinned: list[Any] = []  # memory that CUDA knows must not become somebody else's
        self._reads: list[tuple[Any, bytes]] = []

    def pin(self, pools: Iterable[PagePool]) -> None:
        """The pools' memory becomes memory that the GPU reaches."""
        for pool in pools:
            self.cuda.register_host(pool.buffer.address, pool.spec.num_bytes)

    def start(self, *args: Any, **options: Any) -> Ticket:
        stream = self._random.choice(self._streams)
        ticket = copy_pages(*args, executor="sm_reg", stream=stream, **options)
        self.num_late += not ticket.query()
        return ticket

    def start_set(self, parts: PlanSet, priority: Priority | None) -> Ticket:
        """A copy of a flow."""
        stream = self._random.choice(self._streams)
        ticket = copy_set(parts, executor="sm_reg", stream=stream, priority=priority)
        self.num_late += not ticket.query()
        return ticket

    def write(self, page: PagedBuffer, target: PagedBuffer, page_ids: list[int]) -> None:
        """Into pages fresh from alloc(): by a kernel on a stream, or at once and past every check,
        which is what alloc() allows."""
        if self._random.random() < 0.5:
            scatter_pages(page, PagedBuffer(target.array, target.spec), page_ids)
        else:
            self._pinned.append(pinned(self.cuda, page.array))
            self.start(page, [0], target, page_ids)

    def read(self, buffer: PagedBuffer, page_id: int, want: bytes) -> None:
        """By a kernel on a stream: the page may be free before it has run."""
        out = pinned(self.cuda, np.zeros(len(want), np.uint8))
        self._reads.append((out, want))
        self.start(buffer, [page_id], PagedBuffer(out, buffer.spec.packed(1)), [0])

    def check_reads(self) -> None:
        self.cuda.run_all()
        for out, want in self._reads:
            assert out.tobytes() == want, "a page was written again under a copy that read it"

    def wait(self, hazards: Hazards, *args: Any) -> None:
        """Hazards.wait, counted."""
        self.num_waits += bool(hazards.running(*args[:2]))
        uncounted_wait(hazards, *args)


uncounted_wait = Hazards.wait


@contextmanager
def stream_copies(seed: int) -> Iterator[StreamCopies]:
    """Every copy that the flows start meanwhile is one of these."""
    with emulated_cuda(seed=seed, queries_per_step=12) as cuda:
        copies = StreamCopies(cuda, seed)
        with (
            patch.object(flow_pools, "copy_set", copies.start_set),
            patch.object(Hazards, "wait", lambda *args: copies.wait(*args)),
        ):
            yield copies
        copies.check_reads()
