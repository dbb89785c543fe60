"""The ranks find the largest endpoint that all of them have, many endpoints in a tick."""

from __future__ import annotations

import random
from collections.abc import Sequence

import pytest
from manual_io import ManualIo
from ranks import PAGE_SIZE, Rank, Ranks
from spans import fill_stores, keys_of, make_tokens

from hicache_ext.flow.op import Phase
from hicache_ext.flow.prefetch import PrefetchOp
from hicache_ext.flow.record import Outcome, PrefetchRecord

ASKING_LANE = 12  # of the header: the slot whose endpoints a tick carries, -1: nobody's


class Asked:
    """The asking slot of each tick that a rank issues."""

    def __init__(self, rank: Rank) -> None:
        group, self.slots = rank.cache._engine._group, []
        issue = group.issue

        def watched(lanes) -> None:
            self.slots.append(int(lanes[ASKING_LANE]))
            issue(lanes)

        group.issue = watched  # type: ignore[method-assign]

    @property
    def in_turn(self) -> list[int]:
        return [slot for slot in self.slots if slot >= 0]


def have(monkeypatch: pytest.MonkeyPatch, ranks: Ranks, sets: Sequence[Sequence[set[int]]]) -> None:
    """The stores answer with these endpoints: per rank, per op in the order of their ids."""
    of_cache = {id(rank.cache._ctx): mine for rank, mine in zip(ranks, sets, strict=True)}

    def answer(op: PrefetchOp) -> list[int]:
        return sorted(of_cache[id(op._ctx)][op.op_id - 1])

    monkeypatch.setattr(PrefetchOp, "_ask_store", answer)


def hits(records: Sequence[PrefetchRecord]) -> list[int]:
    """Pages that were agreed on, in the order of the op ids."""
    return [r.num_agreed_tokens // PAGE_SIZE for r in sorted(records, key=lambda r: r.op_id)]


def random_sets(rng: random.Random, num_pages: int, num_ops: int) -> list[set[int]]:
    """Dense, sparse or empty, and anything in between."""
    rates = [rng.choice([0.0, 0.05, 0.3, 0.9, 1.0]) for _ in range(num_ops)]
    return [{e for e in range(1, num_pages + 1) if rng.random() < rate} for rate in rates]


@pytest.mark.parametrize("seed", range(40))
def test_the_hit_is_the_largest_of_the_intersection(
    seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = random.Random(seed)
    num_ranks, num_ops, num_pages = rng.randint(1, 4), rng.randint(1, 5), rng.choice([1, 7, 30])
    lanes, slots = rng.choice([1, 2, 7, 128]), rng.choice([1, 8])
    ranks = Ranks(num_ranks, num_host=256, num_slots=slots, num_endpoint_lanes=lanes)
    sets = [random_sets(rng, num_pages, num_ops) for _ in range(num_ranks)]
    have(monkeypatch, ranks, sets)
    for i in range(num_ops):
        ranks.each(lambda r, i=i: r.cache.prefetch(make_tokens(num_pages, start=1000 * i)))
    want = [max(set.intersection(*mine), default=0) for mine in zip(*sets, strict=True)]
    for records in ranks.drain(max_ticks=2000):
        assert hits(records) == want, f"seed {seed}"
    ranks.check_idle()
    ranks.close()


@pytest.mark.parametrize(("common", "num_asks"), [(None, 8), (3, 8), (400, 5), (999, 1)])
def test_a_thousand_pages_with_alternating_gaps(
    common: int | None, num_asks: int, tick_depth: int
) -> None:
    """Rank 0 has the windows of even endpoints, rank 1 those of odd ones: from one rank's largest
    down to the other's went one page a tick. `common`: the one endpoint that both have."""
    num_pages = 1000
    ranks = Ranks(2, num_host=1024, window_tokens=PAGE_SIZE)
    tokens = make_tokens(num_pages)
    keys = keys_of(tokens)
    for rank in ranks:
        rank.put("full", keys)
        has = {e for e in range(1, num_pages + 1) if e % 2 == rank.rank} | {common}
        rank.put("swa", [key for e, key in enumerate(keys, 1) if e in has])
    asked = Asked(ranks[0])
    ranks.each(lambda r: r.cache.prefetch(tokens))
    records = ranks.drain()
    assert [hits(mine) for mine in records] == [[common or 0]] * 2
    assert len(asked.in_turn) == num_asks
    # The query, the asks, and what a hit takes: reserve, read.
    num_steps = 1 + num_asks + (0 if common is None else 2)
    assert len(asked.slots) == num_steps * (1 + tick_depth)
    ranks.close()


def test_the_oldest_op_asks_first_and_the_next_while_it_waits_for_the_answer(
    monkeypatch: pytest.MonkeyPatch, tick_depth: int
) -> None:
    ranks = Ranks(2, num_host=256, num_endpoint_lanes=4)
    have(monkeypatch, ranks, [[{2, 9}, {3, 8}, {5}], [{2, 8}, {3, 9}, {4}]])
    asked = Asked(ranks[0])
    for i in range(3):
        ranks.each(lambda r, i=i: r.cache.prefetch(make_tokens(10, start=1000 * i)))
    for records in ranks.drain():
        assert hits(records) == [2, 3, 0]
    # Of 8, 7, 6, 5 none is common to the first two, so they ask twice.
    assert asked.in_turn == [[0, 0, 1, 1, 2], [0, 1, 0, 1, 2]][tick_depth]
    ranks.close()


def test_ranks_whose_largest_endpoints_are_equal_do_not_ask() -> None:
    ranks = Ranks(2)
    asked = Asked(ranks[1])
    tokens = make_tokens(6)
    fill_stores(ranks, tokens)
    ranks[0].store.remove("swa", keys_of(tokens)[1:2])  # an endpoint in between
    ranks.each(lambda r: r.cache.prefetch(tokens))
    assert [hits(mine) for mine in ranks.drain()] == [[6]] * 2
    assert asked.in_turn == []
    ranks.close()


@pytest.mark.parametrize("who", [[0], [0, 1]])
def test_an_op_that_is_aborted_while_it_asks(who: list[int]) -> None:
    ranks = Ranks(2, make_io=ManualIo)
    tokens = make_tokens(6)
    keys = fill_stores(ranks, tokens)
    ranks[1].store.remove("swa", keys[-1:])
    op_id = ranks.each(lambda r: r.cache.prefetch(tokens))[0]
    ranks.tick()
    ranks.each(lambda r: r.io.run())
    ranks.tick()
    assert {r.cache._prefetches[op_id].phase for r in ranks} == {Phase.ASK}
    for rank in who:
        ranks[rank].cache.abort(op_id)
    assert [mine[0].outcome for mine in ranks.drain()] == [Outcome.ABORTED] * 2
    ranks.check_idle()
    ranks.close()
