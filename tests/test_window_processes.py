"""The all-or-nothing window with two real processes: the same scenarios over shm and over gloo.

Each scenario is the program of one rank, as a server would run it. The parent compares what the
two ranks report: outcome, tree digest and shape, matched pages.
"""

from __future__ import annotations

import multiprocessing
import threading
import traceback
import uuid
from collections.abc import Callable
from typing import Any

import pytest
from ranks import PAGE_SIZE, Rank
from spans import W, keys_of, make_tokens
from waiting import LONG_S, PATIENCE_S

from hicache_ext.flow.io import ThreadIo
from hicache_ext.flow.op import Phase
from hicache_ext.flow.record import Record
from hicache_ext.pool import PageState
from hicache_ext.tier import Tier


class Gate:
    """A store whose reads wait until the test opens it."""

    def __init__(self, store: Any) -> None:
        self._store = store
        self.open = threading.Event()
        self.entered = threading.Event()

    def read_into(self, *args: Any) -> list[bool]:
        self.entered.set()
        assert self.open.wait(LONG_S)
        return self._store.read_into(*args)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)


def fill(rank: Rank, num_pages: int) -> tuple[list[int], list[bytes]]:
    tokens = make_tokens(num_pages)
    keys = keys_of(tokens)
    rank.put("full", keys)
    rank.put("swa", keys)
    return tokens, keys


def run(rank: Rank, tokens: list[int]) -> list[Record]:
    assert rank.cache.prefetch(tokens) is not None
    return rank.cache.drain()


def short_span_mid_tree(rank: Rank) -> list[Record]:
    tokens, _ = fill(rank, 4 + W - 1)
    return run(rank, tokens[: 4 * PAGE_SIZE + 1]) + run(rank, tokens)


def short_span_at_root(rank: Rank) -> list[Record]:
    return run(rank, fill(rank, W - 1)[0])


def exact_fit(rank: Rank) -> list[Record]:
    return run(rank, fill(rank, W)[0])


def one_rank_short(rank: Rank) -> list[Record]:
    """Rank 1 loses a window page between the query and the read."""
    tokens, keys = fill(rank, 6)
    gate = Gate(rank.store)
    gate.open.set()
    if rank.rank == 1:
        gate.read_into = lambda pool, ks, pages, *limit: (
            [  # type: ignore[method-assign]
                ok and key != keys[4]
                for ok, key in zip(rank.store.read_into(pool, ks, pages, *limit), ks, strict=True)
            ]
            if pool == "swa"
            else rank.store.read_into(pool, ks, pages, *limit)
        )
    rank.cache._ctx.store = gate
    return run(rank, tokens)


def no_room_on_one_rank(rank: Rank) -> list[Record]:
    tokens, _ = fill(rank, 6)
    held = rank.host["swa"].alloc(31) if rank.rank == 1 else []
    records = run(rank, tokens)
    rank.host["swa"].free(held)
    return records


def inside_an_edge(rank: Rank) -> list[Record]:
    """A window that was lost, then a shorter one on the FULL pages that stayed."""
    tokens, keys = fill(rank, 8)
    first = run(rank, tokens)
    rank.cache.evict(Tier.HOST, {"swa": W})
    if rank.rank == 0:
        rank.store.remove("swa", [keys[6]])
    return first + run(rank, tokens)


def all_present(rank: Rank) -> list[Record]:
    tokens, _ = fill(rank, 6)
    rank.cache.prefetch(tokens)
    return run(rank, tokens)


def abort_before(rank: Rank) -> list[Record]:
    tokens, _ = fill(rank, 6)
    op_id = rank.cache.prefetch(tokens)
    assert rank.cache.abort(op_id)
    return rank.cache.drain()


def abort_during(rank: Rank) -> list[Record]:
    """Rank 1's read hangs when the request is aborted; the pages wait for it."""
    tokens, _ = fill(rank, 6)
    gate = Gate(rank.store)
    rank.cache._ctx.store = gate
    op_id = rank.cache.prefetch(tokens)
    assert op_id is not None
    if rank.rank == 0:
        gate.open.set()
    while rank.cache._prefetches[op_id].phase != Phase.READ:  # which both enter in one tick
        assert not rank.cache.tick()
    assert gate.entered.wait(PATIENCE_S)
    rank.cache.abort(op_id)
    for _ in range(5):
        assert not rank.cache.tick()  # rank 1 still reads
    gate.open.set()
    return rank.cache.drain()


def abort_after(rank: Rank) -> list[Record]:
    """Only rank 1 aborts, when all is read."""
    tokens, _ = fill(rank, 6)
    op_id = rank.cache.prefetch(tokens)
    assert op_id is not None
    records: list[Record] = []
    while not records and rank.host["full"].allocator.counts()[PageState.IO] == 0:
        records += rank.cache.tick()
    if rank.rank == 1:
        rank.cache.abort(op_id)
    return records + rank.cache.drain()


SCENARIOS: list[Callable[[Rank], list[Record]]] = [
    short_span_mid_tree,
    short_span_at_root,
    exact_fit,
    one_rank_short,
    no_room_on_one_rank,
    inside_an_edge,
    all_present,
    abort_before,
    abort_during,
    abort_after,
]
EXPECTED_PAGES = dict(
    short_span_mid_tree=4 + W - 1,
    short_span_at_root=W - 1,
    exact_fit=W,
    one_rank_short=0,
    no_room_on_one_rank=0,
    inside_an_edge=6,
    all_present=6,
    abort_before=0,
    abort_during=0,
    abort_after=0,
)


def report(rank: Rank, records: list[Record]) -> dict[str, Any]:
    """What must be equal on both ranks, after checking what must hold on each."""
    rank.check_ledger()
    for pool in (*rank.device.values(), *rank.host.values()):
        counts = pool.allocator.counts()
        assert counts[PageState.RESERVED] == counts[PageState.IO] == 0, (pool.name, counts)
    tokens = make_tokens(8)[:-1]
    rank.check_host(tokens)
    found = rank.cache.tree.match_prefix(tokens)
    return {
        "outcomes": [r.outcome.value for r in records if r.outcome],
        "pages": found.num_tokens // PAGE_SIZE,
        "digest": rank.cache.tree.digest,
        "shape": rank.cache.tree.show(),
    }


def make_group(kind: str, name: str, rank: int, num_lanes: int) -> Any:
    if kind == "shm":
        from hicache_ext.agreement.shm import ShmGroup

        return ShmGroup(name, rank, 2, num_lanes, deadline_s=LONG_S)
    import torch.distributed as dist

    from hicache_ext.agreement.torch_group import TorchGroup

    dist.init_process_group("gloo", init_method=f"file:///tmp/{name}", rank=rank, world_size=2)
    return TorchGroup(num_lanes=num_lanes, deadline_s=LONG_S)


def worker(kind: str, name: str, rank: int, pipe: Any) -> None:
    from hicache_ext.agreement.schema import TickSchema

    try:
        group = make_group(kind, name, rank, TickSchema(["full", "swa"], 64).num_lanes)
        for scenario in SCENARIOS:
            made = Rank(rank, group, io=ThreadIo(), tick_deadline_s=LONG_S)
            records = scenario(made)
            pipe.send((scenario.__name__, report(made, records)))
            made.close()
        group.close()
    except BaseException:
        pipe.send(("error", traceback.format_exc()))
        raise


@pytest.mark.parametrize("kind", ["shm", "gloo"])
def test_two_processes(kind: str) -> None:
    name = f"hicache-test-{uuid.uuid4().hex}"
    spawn = multiprocessing.get_context("spawn")
    pipes, workers = [], []
    for rank in range(2):
        ours, theirs = spawn.Pipe()
        process = spawn.Process(target=worker, args=(kind, name, rank, theirs), daemon=True)
        process.start()
        pipes.append(ours), workers.append(process)
    try:
        for scenario in SCENARIOS:
            reports = []
            for pipe in pipes:
                assert pipe.poll(LONG_S + PATIENCE_S), f"{scenario.__name__}: a rank hangs"
                what, value = pipe.recv()
                assert what == scenario.__name__, value
                reports.append(value)
            assert reports[0] == reports[1], scenario.__name__
            assert reports[0]["pages"] == EXPECTED_PAGES[what], (what, reports[0])
    finally:
        for process in workers:
            process.join(10)
            process.kill()
