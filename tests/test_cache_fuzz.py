"""Random traffic on 1 to 3 simulated ranks with failing stores: trees stay equal, bytes right.

The model is simple: every page of a key has known bytes (`page_content`). Whatever a match returns
on the device must hold them, after any mix of prefill, prefetch, loss, abort, eviction and flush.
A failing seed is printed; HICACHE_FUZZ_SEED=n replays it alone.
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from typing import Any

import pytest
from ranks import PAGE_SIZE, ManualIo, Rank, Ranks, check_device

from hicache_ext.flow.context import ShortWindow
from hicache_ext.keys import page_keys
from hicache_ext.match import Match
from hicache_ext.tier import Tier
from hicache_ext.tree.key import pack_tokens

NUM_SEQUENCES = 60
NUM_STEPS = 60


class Traffic:
    """One seed's run: the same calls on every rank, other faults on each."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.ranks = Ranks(
            self.random.choice([1, 2, 2, 3]),
            make_io=ManualIo,
            num_device=self.random.choice([12, 24]),
            num_host=self.random.choice([6, 16, 40]),
            short_window=self.random.choice(list(ShortWindow)),
            num_slots=self.random.choice([2, 64]),
        )
        self.faults = [random.Random(seed * 1000 + r.rank) for r in self.ranks]
        self.prompts = self._make_prompts()
        if self.random.random() < 0.7:
            self._fill_stores()
        self.op_ids: list[int] = []
        self.held: list[list[Match]] = []  # per request, the match of each rank

    def _make_prompts(self) -> list[list[int]]:
        """Shared prefixes, branches inside pages, and a few lone sequences."""
        system = [self.random.randrange(50) for _ in range(self.random.randrange(4, 24))]
        prompts = []
        for _ in range(6):
            base = self.random.choice([system, [], *prompts])
            cut = self.random.randrange(len(base) + 1)
            tail = [self.random.randrange(50) for _ in range(self.random.randrange(1, 24))]
            prompts.append((base[:cut] if self.random.random() < 0.3 else base) + tail)
        return [p[: 10 * PAGE_SIZE] for p in prompts]

    def _fill_stores(self) -> None:
        """What an earlier process has left in L3, on each rank with gaps of its own."""
        for tokens in self.prompts:
            keys = page_keys(
                pack_tokens(tokens[: len(tokens) // PAGE_SIZE * PAGE_SIZE]), PAGE_SIZE, b""
            )
            for rank, fault in zip(self.ranks, self.faults, strict=True):
                for pool in ("full", "swa"):
                    rank.put(pool, [key for key in keys if fault.random() < 0.97])

    # -- the steps ---------------------------------------------------------------------------

    def prefill(self) -> None:
        """A request computes what it does not find; it may give up when L1 is full."""
        tokens = self.random.choice(self.prompts)
        whole = tokens[: len(tokens) // PAGE_SIZE * PAGE_SIZE]
        if not whole:
            return
        matches = self.ranks.each(lambda r: r.cache.match(whole))
        num_new = (len(whole) - matches[0].num_device_tokens) // PAGE_SIZE
        new = self.ranks.each(lambda r: r.cache.alloc({"full": num_new, "swa": num_new}))
        if num_new and new[0] is not None:
            for rank, match, pages in zip(self.ranks, matches, new, strict=True):
                holes = [-1] * len(match.pages["full"])
                rank.write_device(whole, {n: holes + ids for n, ids in pages.items()})
                given = {name: match.pages[name] + pages[name] for name in pages}
                rank.cache.insert(match, whole, given)
        self.held.append(matches)

    def look(self) -> None:
        """A request matches, checks the bytes on the device, and loads back the rest."""
        tokens = self.random.choice(self.prompts)
        matches = self.ranks.each(lambda r: r.cache.match(tokens))
        for rank, match in zip(self.ranks, matches, strict=True):
            check_device(rank, tokens, match.pages)
            rank.cache.load_back(match)
        self.held.append(matches)

    def release(self) -> None:
        if self.held:
            matches = self.held.pop(self.random.randrange(len(self.held)))
            for rank, match in zip(self.ranks, matches, strict=True):
                check_device(rank, list(_tokens(match)), match.pages)
                rank.cache.release(match)

    def prefetch(self) -> None:
        tokens = [*self.random.choice(self.prompts), 7]
        op_ids = self.ranks.each(lambda r: r.cache.prefetch(tokens))
        assert len(set(op_ids)) == 1
        if op_ids[0] is not None:
            self.op_ids.append(op_ids[0])

    def abort(self) -> None:
        if self.op_ids:
            op_id = self.random.choice(self.op_ids)
            whom = [r for r in self.ranks if self.random.random() < 0.7]
            for rank in whom:
                rank.cache.abort(op_id)

    def evict(self) -> None:
        tier = self.random.choice([Tier.DEVICE, Tier.HOST])
        need = {name: self.random.randrange(5) for name in ("full", "swa")}
        self.ranks.each(lambda r: r.cache.evict(tier, need))

    def flush(self) -> None:
        if not self.ranks[0].cache.num_in_flight:
            tiers = self.random.choice([[Tier.DEVICE], [Tier.HOST], [Tier.DEVICE, Tier.HOST]])
            self.ranks.each(lambda r: r.cache.flush(*tiers))

    def lose(self) -> None:
        """Each store loses pages of its own; a rank that lost one must not go its own way."""
        for rank, fault in zip(self.ranks, self.faults, strict=True):
            for pool in ("full", "swa"):
                keys = list(rank.store.inner._pages[pool])
                if keys and fault.random() < 0.3:
                    key = fault.choice(keys)
                    rank.store.remove(pool, [key])
                if keys and fault.random() < 0.3:
                    rank.store.faults.lost_on_read = {(pool, fault.choice(keys))}

    def tick(self) -> None:
        """I/O threads get further on some ranks than on others."""
        for rank, fault in zip(self.ranks, self.faults, strict=True):
            if fault.random() < 0.7:
                rank.io.run()
        self.ranks.tick()

    def step(self) -> None:
        steps: list[tuple[Callable[[], None], int]] = [
            (self.prefill, 3),
            (self.look, 2),
            (self.release, 3),
            (self.prefetch, 3),
            (self.abort, 1),
            (self.evict, 1),
            (self.flush, 1),
            (self.lose, 1),
            (self.tick, 8),
        ]
        calls, weights = zip(*steps, strict=True)
        self.random.choices(calls, weights)[0]()
        self.ranks.check()

    def finish(self) -> None:
        while self.held:
            self.release()
        for _ in range(300):
            if not self.ranks[0].cache.num_in_flight:
                break
            self.ranks.each(lambda r: r.io.run())
            self.ranks.tick()
        self.ranks.check_idle()
        for tokens in self.prompts:
            self.ranks.each(lambda r, t=tokens: r.check_host(t))
        self.ranks.each(lambda r: r.cache.flush())
        self.ranks.check_idle()
        for rank in self.ranks:
            for pool in (*rank.device.values(), *rank.host.values()):
                assert pool.allocator.num_free == pool.allocator.capacity
        self.ranks.close()


def _tokens(match: Match) -> Any:
    return memoryview(match.tokens).cast("I")[: len(match.pages["full"]) * PAGE_SIZE]


def run_seed(seed: int, num_steps: int = NUM_STEPS) -> Traffic:
    traffic = Traffic(seed)
    try:
        for _ in range(num_steps):
            traffic.step()
        traffic.finish()
    except BaseException:
        print(f"\nHICACHE_FUZZ_SEED={seed} replays this")
        raise
    return traffic


def seeds(num: int) -> list[int]:
    fixed = os.environ.get("HICACHE_FUZZ_SEED")
    return [int(fixed)] if fixed else list(range(num))


def test_random_traffic() -> None:
    totals: dict[str, int] = {}
    for seed in seeds(NUM_SEQUENCES):
        for rank in run_seed(seed).ranks:
            for key, num in rank.cache.stats.num_outcomes.items():
                totals[key] = totals.get(key, 0) + num
    if not os.environ.get("HICACHE_FUZZ_SEED"):
        # The fuzz must go where the trouble is, or it proves nothing.
        for key in ("prefetch.committed", "prefetch.miss", "prefetch.capacity", "prefetch.aborted"):
            assert totals.get(key, 0) > 5, (key, totals)
        for key in ("backup.committed", "backup.capacity", "loadback.committed"):
            assert totals.get(key, 0) > 5, (key, totals)


@pytest.mark.long
def test_random_traffic_long() -> None:
    for seed in seeds(2000):
        run_seed(seed)


def test_rank_is_used() -> None:
    """The helper that fills stores for the tests really differs by rank and pool."""
    from ranks import page_content

    assert page_content(0, "full", b"k", 64) != page_content(1, "full", b"k", 64)
    assert page_content(0, "full", b"k", 64) != page_content(0, "swa", b"k", 64)
    assert isinstance(Rank, type)
