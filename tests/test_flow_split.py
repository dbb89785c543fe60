"""Nodes are split, grown and matched while their pages are copied: every fragment gets its own."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from ranks import PAGE_SIZE, Ranks, check_device
from spans import hit_pages, keys_of, prefill

from hicache_ext.copy import copy_set
from hicache_ext.flow import pools as flow_pools
from hicache_ext.flow.op import Phase
from hicache_ext.tier import Tier

NUM_PAGES = 8
TOKENS = list(range(NUM_PAGES * PAGE_SIZE))
BRANCH = 5 * PAGE_SIZE  # where another prompt leaves this one


class Copies:
    """All of them are under way until the test lets go; the bytes move at the last moment."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.are_held = True
        monkeypatch.setattr(flow_pools, "copy_set", lambda parts, **kw: HeldTicket(self, parts))


class HeldTicket:
    def __init__(self, copies: Copies, parts: Any) -> None:
        self._copies, self._parts = copies, parts
        self._ticket: Any = None

    def query(self) -> bool:
        return not self._copies.are_held and bool(self._started().query())

    def wait(self, stream: Any = None) -> None:
        self._started().wait(stream)

    def result(self) -> int:
        return int(self._started().result())

    def _started(self) -> Any:
        if self._ticket is None:
            self._ticket = copy_set(self._parts)
        return self._ticket


@pytest.fixture(params=[1, 2])
def ranks(request: pytest.FixtureRequest) -> Iterator[Ranks]:
    made = Ranks(request.param, num_device=48, num_host=48)
    yield made
    made.close()


@pytest.fixture
def copies(monkeypatch: pytest.MonkeyPatch) -> Copies:
    return Copies(monkeypatch)


def tick_to_copy(ranks: Ranks) -> None:
    for _ in range(8):
        phases = {op.phase for r in ranks for op in r.cache._engine._ops._held.values()}
        if phases == {Phase.COPY}:
            return
        ranks.tick()
    raise AssertionError(phases)


def split_everywhere(ranks: Ranks) -> None:
    """Matches that end inside, and a prompt that leaves on the way and is inserted."""
    for num_pages in (2, 7, 4):
        tokens = TOKENS[: num_pages * PAGE_SIZE]
        ranks.each(lambda r, t=tokens: r.cache.release(r.cache.match(t)))
    for rank in ranks:
        tokens = TOKENS[:BRANCH] + list(range(900, 900 + 2 * PAGE_SIZE))
        match = rank.cache.match(tokens)
        if match.num_device_tokens == BRANCH:
            new = rank.cache.alloc({"full": 2, "swa": 2})
            pages = {name: match.pages[name] + new[name] for name in new}
            rank.write_device(tokens, {n: [-1] * 5 + ids for n, ids in new.items()})
            rank.cache.insert(match, tokens, pages)
        rank.cache.release(match)
    ranks.check()
    shown = ranks[0].cache.tree.show()
    assert sum("#" in line for line in shown.splitlines()) >= 5, shown


def test_a_split_while_its_pages_are_copied_to_the_host(ranks: Ranks, copies: Copies) -> None:
    ranks.each(lambda r: r.cache.release(prefill(r, NUM_PAGES)))
    tick_to_copy(ranks)
    split_everywhere(ranks)
    copies.are_held = False
    ranks.drain()
    ranks.each(lambda r: r.check_host(TOKENS))
    ranks.check_idle()
    for rank in ranks:  # each fragment went on to the store
        assert all(rank.store.exists("full", keys_of(TOKENS)))
        assert all(rank.store.exists("swa", keys_of(TOKENS)))
    ranks.each(lambda r: r.cache.flush(Tier.DEVICE))
    assert hit_pages(ranks, [*TOKENS, 0]) == NUM_PAGES


def test_a_split_while_its_pages_are_loaded_back(ranks: Ranks, copies: Copies) -> None:
    copies.are_held = False
    ranks.each(lambda r: r.cache.release(prefill(r, NUM_PAGES)))
    ranks.drain()
    ranks.each(lambda r: r.cache.flush(Tier.DEVICE))
    copies.are_held = True
    matches = ranks.each(lambda r: r.cache.match(TOKENS))
    for rank, match in zip(ranks, matches, strict=True):
        assert rank.cache.load_back(match) is not None
    tick_to_copy(ranks)
    split_everywhere(ranks)
    copies.are_held = False
    ranks.drain()
    for rank, match in zip(ranks, matches, strict=True):
        assert match.num_device_tokens == len(TOKENS)
        check_device(rank, TOKENS, match.pages)
        check_device(rank, TOKENS, match.load.pages)
        rank.cache.release(match)
    ranks.check_idle()
