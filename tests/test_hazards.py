"""Hazards against a plain model, on fake streams that run in any order that the waits allow."""

import os
import random
import time
import weakref
from dataclasses import dataclass

import numpy as np
import pytest
from fake_gpu import FakeCopy, FakeGpu

from hicache_ext.errors import CudaError
from hicache_ext.hazards import MIN_BEFORE_CLEANING, Access, Hazards
from hicache_ext.ticket import Ticket, drain, results

NUM_PAGES = 12


def start(gpu: FakeGpu, stream: int = 1, fails: Exception | None = None) -> Ticket:
    return Ticket(0, (), gpu.start(stream, lambda: None, fails))


# --- one rule after the other --------------------------------------------------------------------


def test_who_waits_for_whom() -> None:
    gpu, hazards = FakeGpu(0), Hazards(NUM_PAGES)
    reads, writes = start(gpu, 1), start(gpu, 2)
    hazards.record([1, 2], Access.READ, reads)
    hazards.record([2, 3], Access.WRITE, writes)
    assert hazards.running([1], Access.READ) == []  # reads share
    assert hazards.running([1], Access.WRITE) == [reads]
    assert hazards.running([3], Access.READ) == hazards.running([3], Access.WRITE) == [writes]
    assert set(hazards.running([1, 2, 3], Access.WRITE)) == {reads, writes}
    assert hazards.running([0, 4, 11], Access.WRITE) == hazards.running([], Access.WRITE) == []
    assert hazards.running(None, Access.READ) == [writes]
    assert set(hazards.running(None, Access.WRITE)) == {reads, writes}
    assert hazards.pages() == [1, 2, 3]
    gpu.finish()
    assert hazards.running(None, Access.WRITE) == [] and hazards.pages() == []


def test_a_write_waits_for_every_read_that_shares_the_page() -> None:
    """Not for the last one alone: an earlier one on a slower stream may still be reading."""
    gpu, hazards = FakeGpu(0), Hazards(NUM_PAGES)
    slow, fast = start(gpu, 1), start(gpu, 2)
    hazards.record([0, 1], Access.READ, slow)
    hazards.record([1, 2], Access.READ, fast)
    assert hazards.running([0], Access.WRITE) == [slow]
    assert set(hazards.running([1], Access.WRITE)) == {slow, fast}
    assert hazards.running([2], Access.WRITE) == [fast]
    fast._running.is_done = True
    assert hazards.running([1], Access.WRITE) == [slow]
    assert hazards.pages() == [0, 1]


def test_pages_that_only_the_gpu_knows_are_all_pages() -> None:
    gpu, hazards = FakeGpu(0), Hazards(NUM_PAGES)
    ticket = start(gpu)
    hazards.record(None, Access.WRITE, ticket)
    assert hazards.running([7], Access.READ) == [ticket] and len(hazards.pages()) == NUM_PAGES


@pytest.mark.parametrize("kind", [list, np.int32, np.int64])
def test_holes_and_ids_out_of_range_are_passed_over(kind) -> None:
    gpu, hazards = FakeGpu(0), Hazards(NUM_PAGES)
    ids = [-1, 3, NUM_PAGES, 2**31 - 1, -(2**31)]
    hazards.record(ids if kind is list else np.array(ids, kind), Access.READ, start(gpu))
    assert hazards.pages() == [3]
    assert hazards.running([-1, NUM_PAGES, NUM_PAGES - 1], Access.WRITE) == []


def test_what_is_done_at_once_is_not_recorded_and_costs_nothing() -> None:
    hazards = Hazards(100_000)
    hazards.record(range(1000), Access.WRITE, Ticket(1))
    assert hazards._batches == {}
    ids = np.arange(1000)
    begin = time.thread_time()
    for _ in range(1000):
        hazards.running(ids, Access.WRITE)
    assert time.thread_time() - begin < 0.1  # 1 us each; looking at 1000 pages takes 20


def test_tickets_of_done_copies_are_let_go_of() -> None:
    gpu, hazards = FakeGpu(0), Hazards(NUM_PAGES)
    for i in range(20 * MIN_BEFORE_CLEANING):
        hazards.record([i % NUM_PAGES], Access.WRITE, start(gpu))
        gpu.finish()
    assert len(hazards._batches) <= MIN_BEFORE_CLEANING


def test_many_running_copies_are_not_asked_again_for_each_new_one() -> None:
    gpu, hazards, num_copies = FakeGpu(0), Hazards(1000), 1000
    for i in range(num_copies):
        hazards.record([i], Access.WRITE, start(gpu))
    assert gpu.num_queries < 4 * num_copies


def test_wait_blocks_or_lets_a_stream_wait() -> None:
    gpu, hazards = FakeGpu(0), Hazards(NUM_PAGES)
    first = start(gpu, stream=1)
    hazards.record([5], Access.WRITE, first)
    hazards.wait([5], Access.READ, stream=2)
    assert not first.query() and len(gpu.streams[2]) == 1
    hazards.wait([5], Access.READ)
    assert first.query()


# --- tickets -------------------------------------------------------------------------------------


class Owned:
    pass


def test_a_ticket_owns_its_buffers_until_the_copy_is_seen_done() -> None:
    for see in (Ticket.query, Ticket.wait, Ticket.result):
        gpu, buffer = FakeGpu(0), Owned()
        alive = weakref.ref(buffer)
        ticket = Ticket(0, (buffer,), gpu.start(1, lambda: None))
        del buffer
        ticket.wait(stream=2)  # the stream waits, this thread does not
        assert not ticket.query() and alive() is not None
        gpu.finish()
        see(ticket)
        assert alive() is None


def test_dropping_a_ticket_waits_for_the_copy() -> None:
    gpu = FakeGpu(0)
    copy = gpu.start(1, lambda: None)
    ticket = Ticket(0, (Owned(),), copy)
    del ticket
    assert copy.is_done


def test_everything_has_stopped_before_the_first_error_is_raised() -> None:
    for seed in range(10):  # which of the others still run when the failed one has stopped
        gpu = FakeGpu(seed)
        fates = [None, CudaError("first"), None, CudaError("second"), None]
        copies = [gpu.start(i, lambda: None, fails) for i, fails in enumerate(fates)]
        with pytest.raises(CudaError, match="first"):
            results(Ticket(0, (), copy) for copy in copies)
        assert all(copy.is_done for copy in copies)
    assert results([Ticket(5), Ticket(0, (), gpu.start(1, lambda: None))]) == 6
    drain([Ticket(0, (), gpu.start(1, lambda: None, CudaError("told elsewhere")))])


# --- fuzz ----------------------------------------------------------------------------------------


@dataclass(eq=False)
class Issued:
    """A copy as the model sees it."""

    pages: set[int]
    access: Access
    copy: FakeCopy | None = None

    def excludes(self, pages: set[int], access: Access) -> bool:
        return bool(self.pages & pages) and Access.WRITE in (self.access, access)


class World:
    """Copies on three streams, some ordered by a stream's wait, some by a blocked thread."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.gpu = FakeGpu(seed)
        self.hazards = Hazards(NUM_PAGES)
        self.issued: list[Issued] = []
        self.num_overlaps = 0

    def copy(self) -> None:
        pages = set(self.random.sample(range(NUM_PAGES), self.random.randint(1, 5)))
        access, stream = self.random.choice(list(Access)), self.random.randrange(3)
        ids = None if self.random.random() < 0.05 else sorted(pages)
        mine = Issued(set(range(NUM_PAGES)) if ids is None else pages, access)
        for ticket in self.hazards.running(ids, access):
            (other,) = (x for x in self.issued if x.copy is ticket._running)
            assert other.excludes(mine.pages, access), "a wait for nothing"
        self.hazards.wait(ids, access, stream if self.random.random() < 0.8 else None)
        before = list(self.issued)

        def work() -> None:
            for other in before:
                if other.excludes(mine.pages, access):
                    assert other.copy is not None and other.copy.is_done
                elif other.copy is not None and not other.copy.is_done:
                    self.num_overlaps += 1

        mine.copy = self.gpu.start(stream, work)
        self.issued.append(mine)
        self.hazards.record(ids, access, Ticket(0, (), mine.copy))

    def take(self) -> None:
        """As alloc() does: pages that are handed out are under no copy."""
        pages = set(self.random.sample(range(NUM_PAGES), 2))
        self.hazards.wait(sorted(pages), Access.WRITE)
        for other in self.issued:
            assert not (other.pages & pages) or (other.copy is not None and other.copy.is_done)

    def check(self) -> None:
        running = [x for x in self.issued if x.copy is not None and not x.copy.is_done]
        expected = {page for x in running for page in x.pages}
        assert set(self.hazards.pages()) == expected


@pytest.mark.parametrize("seed", range(60))
def test_conflicting_copies_run_one_after_the_other(seed: int) -> None:
    seed = int(os.environ.get("HICACHE_FUZZ_SEED", seed))
    print(f"replay: HICACHE_FUZZ_SEED={seed}")
    world = World(seed)
    for _ in range(150):
        action = world.random.choices(["copy", "take", "step"], [5, 1, 6])[0]
        if action == "step":
            world.gpu.step()
        else:
            getattr(world, action)()
        world.check()
    world.gpu.finish()
    world.check()
    assert world.num_overlaps > 0, "nothing ran side by side: the test shows nothing"
