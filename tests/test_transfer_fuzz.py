"""Random requests over all ways between the tiers: each policy, load-backs that run while pages
change, retraction, pressure on both tiers, stores that fail, and an end at any moment.

After each step: ledgers exact, trees equal on all ranks; whatever a request reads holds the bytes
of its keys. HICACHE_FUZZ_SEED=n replays the seed that a failure prints.
"""

from __future__ import annotations

import os
import random

import pytest
from manual_io import ManualIo
from ranks import PAGE_SIZE, Rank, Ranks, check_device

from hicache_ext.flow.backup_line import WritePolicy
from hicache_ext.flow.retract import Parked, ParkState
from hicache_ext.match import Match
from hicache_ext.tier import Tier

NUM_STEPS = 90
Pages = dict[str, list[int]]


class Request:
    """What one request holds, on each rank."""

    def __init__(self, tokens: list[int], matches: list[Match]) -> None:
        self.tokens, self.matches = tokens, matches
        self.parked: list[Parked] = []
        self.given: list[Pages] = []  # to park


class Traffic:
    """Calls drawn from a seed, the same on every rank."""

    def __init__(self, seed: int) -> None:
        self.rng = rng = random.Random(seed)
        self.ranks = Ranks(
            rng.randint(1, 3),
            make_io=ManualIo,
            num_device=rng.choice([16, 24]),
            num_host=rng.choice([12, 20, 40]),
            write_policy=rng.choice(list(WritePolicy)),
            write_back_watermark=rng.choice([0.2, 0.5]),
            backup_batch_pages=rng.choice([4, 64]),
            num_slots=rng.choice([2, 8]),
        )
        self.running: list[Request] = []
        self.parked: list[Request] = []
        self.num_done = dict.fromkeys(("loaded", "restored", "gone"), 0)

    def step(self) -> None:
        calls = [self.begin] * 3 + [self.tick] * 12 + [self.end] * 5 + [self.io] * 6
        calls += [self.load, self.park, self.restore, self.discard, self.evict]
        calls += [self.come_back] * 3
        self.rng.choice(calls)()
        self.ranks.check()

    def begin(self) -> None:
        """Match, and compute the rest if there is room."""
        start = self.rng.choice([0, 0, 1000, 2000])
        tokens = list(range(start, start + self.rng.randint(1, 6) * PAGE_SIZE))
        self.running.append(Request(tokens, self.ranks.each(lambda r: r.cache.match(tokens))))
        self.check(self.running[-1])

    def come_back(self) -> None:
        """A prompt that only the host has."""
        self.ranks.each(lambda r: r.cache.evict(Tier.DEVICE, {"full": 99, "swa": 99}))
        self.begin()
        self.load()

    def compute(self, request: Request) -> None:
        """The rest of the prompt, if there is room."""
        given = None if request.matches[0].loading else self.alloc_rest(request)
        for rank, match, pages in zip(self.ranks, request.matches, given or [], strict=False):
            rank.cache.insert(match, request.tokens, pages)
            check_device(rank, request.tokens, match.pages)

    def alloc_rest(self, request: Request) -> list[Pages] | None:
        """All pages of a request by rank: those of its match, and new ones with their bytes."""
        num_pages = len(request.tokens) // PAGE_SIZE
        num_done = len(request.matches[0].pages["full"])
        need = dict.fromkeys(("full", "swa"), num_pages - num_done)
        fresh = self.ranks.each(lambda r: r.cache.alloc(need))
        assert len({new is None for new in fresh}) == 1
        if fresh[0] is None:
            return None
        for rank, new in zip(self.ranks, fresh, strict=True):
            holes = {name: [-1] * num_done + ids for name, ids in new.items()}
            rank.write_device(request.tokens, holes)
        return [
            {name: match.pages[name] + new[name] for name in new}
            for match, new in zip(request.matches, fresh, strict=True)
        ]

    def load(self) -> None:
        for request in reversed(self.running):
            if not request.matches[0].loading and request.matches[0].num_host_tokens:
                for rank, match in zip(self.ranks, request.matches, strict=True):
                    rank.cache.load_back(match)
                self.num_done["loaded"] += 1
                return

    def check(self, request: Request) -> None:
        """Reads what a forward pass would read."""
        for rank, match in zip(self.ranks, request.matches, strict=True):
            check_device(rank, request.tokens, match.pages)
            if match.load is not None and match.load.has_started:
                match.load.wait_layer(0)
                match.load.wait_layer(2)
                check_device(rank, request.tokens, match.load.pages)

    def end(self) -> None:
        if self.running:
            request = self.running.pop(self.rng.randrange(len(self.running)))
            self.check(request)
            self.compute(request)
            for rank, match in zip(self.ranks, request.matches, strict=True):
                rank.cache.release(match)

    def park(self) -> None:
        """Of a request with pages of its own beyond the match, if there is room for them."""
        whole = [r for r in self.running if not any(m.loading for m in r.matches)]
        if not whole:
            return
        request = self.rng.choice(whole)
        given = self.alloc_rest(request)
        if given is None:
            return
        self.running.remove(request)
        request.parked = [
            rank.cache.park(match, len(request.tokens), pages)
            for rank, match, pages in zip(self.ranks, request.matches, given, strict=True)
        ]
        request.given = given
        self.parked.append(request)

    def restore(self) -> None:
        for request in self.parked:
            if request.parked[0].state == ParkState.PARKED and not request.parked[0].is_discarded:
                for rank, parked in zip(self.ranks, request.parked, strict=True):
                    rank.cache.restore(parked)
                return

    def discard(self) -> None:
        for request in self.parked:
            state = request.parked[0].state
            over = state in (ParkState.RUNNING, ParkState.GONE)
            if not over and not request.parked[0].is_discarded:
                for rank, parked in zip(self.ranks, request.parked, strict=True):
                    rank.cache.discard(parked)
                return

    def look_after_parked(self) -> None:
        """Those that run again, or never stopped, end here; those that are gone are forgotten."""
        for request in list(self.parked):
            state = request.parked[0].state
            assert {p.state for p in request.parked} == {state}
            if state in (ParkState.RUNNING, ParkState.GONE):
                self.parked.remove(request)
                self.num_done["gone" if state == ParkState.GONE else "restored"] += 1
            if state == ParkState.RUNNING:
                everything = zip(self.ranks, request.parked, request.matches, strict=True)
                for i, (rank, parked, match) in enumerate(everything):
                    pages = parked.pages or request.given[i]
                    check_device(rank, request.tokens, pages)
                    mine = pages
                    if not match.released:  # refused: part of it is the tree's
                        mine = {n: [i for i in pages[n] if i not in match.pages[n]] for n in pages}
                        rank.cache.release(match)
                    rank.cache.free(mine)

    def tick(self) -> None:
        self.ranks.each(lambda r: r.cache.publish())
        self.ranks.each(lambda r: r.cache.apply())
        self.look_after_parked()

    def io(self) -> None:
        self.rng.choice(self.ranks.ranks).io.run()

    def evict(self) -> None:
        tier = self.rng.choice([Tier.DEVICE, Tier.DEVICE, Tier.DEVICE, Tier.HOST])
        num = {"full": self.rng.randint(0, 16), "swa": self.rng.randint(0, 16)}
        self.ranks.each(lambda r: r.cache.evict(tier, num))

    def finish(self) -> None:
        """Everything ends well, or the caches close in the middle of it."""
        if self.rng.random() < 0.5:
            for _ in range(400):
                self.ranks.each(lambda r: r.io.run())
                self.tick()
                if not self.ranks[0].cache.num_in_flight:
                    break
            while self.running:
                self.end()
            self.ranks.each(lambda r: r.io.run())
            for request in list(self.parked):
                for rank, parked in zip(self.ranks, request.parked, strict=True):
                    rank.cache.discard(parked)
            for _ in range(400):
                self.ranks.each(lambda r: r.io.run())
                self.tick()
            self.ranks.check_idle()
        self.ranks.each(close_and_check)


def close_and_check(rank: Rank) -> None:
    rank.cache.close()
    rank.check_ledger()
    assert not rank.cache.tree._state.plans
    for pool in rank.host.values():
        counts = {state.name: n for state, n in pool.allocator.counts().items()}
        assert counts["RESERVED"] == counts["IO"] == 0, pool.name
    rank.close()


def run_seed(seed: int) -> dict[str, int]:
    try:
        traffic = Traffic(seed)
        for _ in range(NUM_STEPS):
            traffic.step()
        traffic.finish()
    except BaseException:
        print(f"\nHICACHE_FUZZ_SEED={seed} replays this")
        raise
    return traffic.num_done


def test_random_traffic_between_the_tiers() -> None:
    fixed = os.environ.get("HICACHE_FUZZ_SEED")
    runs = [run_seed(seed) for seed in ([int(fixed)] if fixed else range(6))]
    if not fixed:
        for what in runs[0]:
            assert sum(run[what] for run in runs) > 0, f"no {what}"


@pytest.mark.long
@pytest.mark.parametrize("first_seed", range(0, 2000, 200))
def test_random_traffic_between_the_tiers_long(first_seed: int) -> None:
    for seed in range(first_seed, first_seed + 200):
        run_seed(seed)
