"""Load-back: layer by layer, what it takes and whether it may; pages that somebody else brought."""

from __future__ import annotations

import random
from typing import Any

import pytest
from emulated_cuda import emulated_cuda
from ranks import NUM_LAYERS, PAGE_SIZE, Rank, Ranks, check_device, publish
from spans import prefill

from hicache_ext.agreement.local import LocalGroup
from hicache_ext.errors import HiCacheError, TreeError
from hicache_ext.flow.record import LoadBackRecord, Outcome
from hicache_ext.match import Match
from hicache_ext.tier import Tier

TOKENS = list(range(6 * PAGE_SIZE))


@pytest.fixture(params=[1, 3])
def ranks(request: pytest.FixtureRequest) -> Any:
    """Six pages on the host alone."""
    made = Ranks(request.param)
    on_host(made)
    yield made
    made.close()


def on_host(ranks: Ranks) -> None:
    ranks.each(lambda r: r.cache.release(prefill(r, 6)))
    ranks.drain()
    ranks.each(lambda r: r.cache.flush(Tier.DEVICE))


def start(ranks: Ranks) -> list[Match]:
    """Load-backs that have started to copy and are not over."""
    matches = ranks.each(lambda r: r.cache.match(TOKENS))
    for rank, match in zip(ranks, matches, strict=True):
        assert rank.cache.load_back(match) is not None
        assert match.load is not None and not match.load.has_started
        with pytest.raises(TreeError, match="has no pages yet"):
            match.load.wait_layer(0)
    publish(ranks)
    ranks.each(lambda r: r.cache.apply())
    return matches


def end(ranks: Ranks, matches: list[Match]) -> None:
    for rank, match in zip(ranks, matches, strict=True):
        rank.cache.release(match)
    ranks.check_idle()


def test_the_forward_pass_begins_before_the_tree_has_the_pages(ranks: Ranks) -> None:
    matches = start(ranks)
    for rank, match in zip(ranks, matches, strict=True):
        load = match.load
        assert load is not None and load.has_started and load.outcome is None
        assert match.num_device_tokens == 0
        assert [len(load.pages[n]) for n in ("full", "swa")] == [6, 6]
        assert load.pages["swa"][:3] == [-1, -1, -1]
        for layer in range(max(NUM_LAYERS.values())):
            load.wait_layer(layer)
        check_device(rank, TOKENS, load.pages)
    ranks.drain()
    for match in matches:
        assert match.load is not None and match.load.outcome == Outcome.COMMITTED
        assert (match.num_device_tokens, match.pages) == (6 * PAGE_SIZE, match.load.pages)
        match.load.wait_layer(0)
    end(ranks, matches)


def test_one_launch_per_layer_of_all_pools_that_have_it(monkeypatch: pytest.MonkeyPatch) -> None:
    ranks = Ranks(1)
    on_host(ranks)
    pools, launches = ranks[0].cache.pools, []
    launch = pools._start
    monkeypatch.setattr(
        pools, "_start", lambda parts, *a: (launches.append(len(parts)), launch(parts, *a))[1]
    )
    matches = start(ranks)
    assert launches == [2, 2, 1]  # full has 2 layers, swa 3
    ranks.drain()
    end(ranks, matches)
    ranks.close()


def test_layers_end_one_after_the_other_on_a_stream() -> None:
    """On the emulated GPU a launch runs when somebody asks for it: layer 0 alone, here."""
    with emulated_cuda(seed=1, queries_per_step=1 << 30) as cuda:
        rank = Rank(0, LocalGroup(), tick_depth=0)
        ranks = [rank]
        match = prefill(rank, 6)
        rank.cache.drain()
        rank.cache.release(match)
        rank.cache.flush(Tier.DEVICE)
        stream = on_streams(rank, cuda)
        match = rank.cache.match(TOKENS)
        rank.cache.load_back(match)
        publish(ranks)
        rank.cache.apply()
        load = match.load
        assert load is not None and load._copies is not None
        assert not load._copies.done()
        load.wait_layer(0)
        first, *rest = load._copies._layers
        assert [t.query() for t in first] == [True]
        assert not any(t.query() for tickets in rest for t in tickets)
        load.wait_layer(2, stream)  # the stream waits, this thread does not
        cuda.run_all()
        rank.cache.drain()
        check_device(rank, TOKENS, match.pages)
        rank.cache.release(match)
        rank.check_ledger()
        rank.close()


def on_streams(rank: Rank, cuda: Any) -> Any:
    """Copies of the flows go to a stream of the emulated GPU; returns another stream."""
    from hicache_ext.copy import copy_set
    from hicache_ext.flow import pools

    for pool in (*rank.device.values(), *rank.host.values()):
        cuda.register_host(pool.buffer.address, pool.spec.num_bytes)
    stream, other = cuda.create_stream(), cuda.create_stream()

    def launch(parts: Any, priority: Any) -> Any:
        return copy_set(parts, executor="sm_reg", stream=stream)

    rank.cache.pools._start = (  # type: ignore[method-assign]
        lambda parts, priority=None: [launch(pools.PlanSet(parts), priority)]
    )
    return other


def test_a_copy_that_fails_is_told_to_the_forward_pass(ranks: Ranks) -> None:
    matches = ranks.each(lambda r: r.cache.match(TOKENS))
    broken = ranks[-1].cache.pools

    def fails(*args: Any) -> Any:
        raise OSError("told to fail")

    broken.copy_layers = fails  # type: ignore[method-assign]
    for rank, match in zip(ranks, matches, strict=True):
        rank.cache.load_back(match)
    for records in ranks.drain():
        assert [r.outcome for r in records if isinstance(r, LoadBackRecord)] == [Outcome.FAILED]
    for match in matches:
        assert match.load is not None and not match.load.has_started
        with pytest.raises(HiCacheError, match="has ended as failed"):
            match.load.wait_layer(0)
    end(ranks, matches)


def test_a_copy_that_fails_on_one_rank_is_no_divergence(monkeypatch: pytest.MonkeyPatch) -> None:
    """The rank asks the tree for the same things, in the same order, as those whose copy runs."""
    monkeypatch.setenv("HICACHE_CHECK", "full")
    ranks = Ranks(3)
    on_host(ranks)
    test_a_copy_that_fails_is_told_to_the_forward_pass(ranks)
    ranks.close()


def test_pages_that_the_tree_got_meanwhile_stay_valid_until_the_release(ranks: Ranks) -> None:
    """Another request computed the same prefix: the tree keeps its pages, the pass reads ours."""
    matches = start(ranks)
    loads = [dict(match.load.pages) for match in matches if match.load is not None]
    others = ranks.each(lambda r: prefill(r, 6))
    ranks.drain()
    for rank, match, pages in zip(ranks, matches, loads, strict=True):
        assert match.num_device_tokens == 6 * PAGE_SIZE
        assert not set(match.pages["full"]) & set(pages["full"])
        new = rank.cache.alloc({"full": 20, "swa": 20})  # what is left; none of it is ours
        assert not set(new["full"]) & set(pages["full"])
        rank.cache.free(new)
        check_device(rank, TOKENS, pages)
        assert sum(map(len, match.spare.values())) == 9
    for rank, other in zip(ranks, others, strict=True):
        rank.cache.release(other)
    end(ranks, matches)


def test_pages_before_the_window_are_not_promised() -> None:
    """They were on the device when the load-back started, but nothing keeps them there."""
    ranks = Ranks(2)
    on_host(ranks)
    short = ranks.each(lambda r: r.cache.match(TOKENS[: 4 * PAGE_SIZE]))
    for rank, match in zip(ranks, short, strict=True):
        rank.cache.load_back(match)
    ranks.drain()
    matches = start(ranks)
    for match in matches:
        assert match.load is not None
        assert [page >= 0 for page in match.load.pages["swa"]] == [False] * 3 + [True] * 3
    ranks.drain()
    for rank, match in zip(ranks, short, strict=True):
        rank.cache.release(match)
    end(ranks, matches)
    ranks.close()


def test_threshold_and_quota(ranks: Ranks) -> None:
    for rank in ranks:
        match = rank.cache.match(TOKENS)
        assert rank.cache.load_back(match, max_tokens=6 * PAGE_SIZE - 1) is None
        rank.cache.release(match)
    assert ranks[0].cache.num_in_flight == 0
    picky = Ranks(1, load_back_threshold_tokens=6 * PAGE_SIZE + 1)
    on_host(picky)
    match = picky[0].cache.match(TOKENS)
    assert match.num_host_tokens == 6 * PAGE_SIZE
    assert picky[0].cache.load_back(match) is None
    picky[0].cache.release(match)
    picky.close()


def test_what_a_request_needs_is_what_load_back_and_alloc_take(ranks: Ranks) -> None:
    needs = []
    for rank in ranks:
        match = rank.cache.match(TOKENS)
        need = rank.cache.device_need(match, 2 * PAGE_SIZE + 1)
        assert need == {"full": 6 + 3, "swa": 3 + 3}
        assert rank.cache.can_admit(need)
        assert not rank.cache.can_admit({"full": 33, "swa": 0})
        assert rank.cache.device_need(match) == {"full": 6, "swa": 3}
        rank.cache.load_back(match)
        needs.append((rank, match))
    ranks.drain()
    for rank, match in needs:
        assert rank.cache.device_need(match) == {"full": 0, "swa": 0}
        assert rank.device["full"].num_free == 32 - 6 and rank.device["swa"].num_free == 32 - 3
        assert not rank.cache.can_admit({"full": 27, "swa": 0})  # the rest is locked
        rank.cache.release(match)
        assert rank.cache.can_admit({"full": 32, "swa": 32})


@pytest.mark.parametrize("seed", range(8))
def test_the_need_is_exact_for_any_tree(seed: int) -> None:
    rng = random.Random(seed)
    rank = Rank(0, LocalGroup(), num_device=40, num_host=60)
    for _ in range(12):
        rank.cache.release(prefill(rank, rng.randint(1, 8), start=rng.choice([0, 0, 100])))
        rank.cache.drain()
        rank.cache.evict(Tier.DEVICE, {"full": rng.randint(0, 6), "swa": rng.randint(0, 6)})
        match = rank.cache.match(TOKENS[: rng.randint(1, 6) * PAGE_SIZE])
        need = rank.cache.device_need(match)
        plan = rank.cache.tree.begin_load_back(match.node)
        assert need == (plan.num_pages if plan else {"full": 0, "swa": 0}), f"seed {seed}"
        if plan:
            rank.cache.tree.abort_load_back(plan)
        rank.cache.release(match)
    rank.check_ledger()
    rank.close()


@pytest.mark.parametrize("num_ticks", range(4))
def test_close_in_every_phase(ranks: Ranks, num_ticks: int) -> None:
    matches = ranks.each(lambda r: r.cache.match(TOKENS))
    for rank, match in zip(ranks, matches, strict=True):
        rank.cache.load_back(match)
    for _ in range(num_ticks):
        ranks.each(lambda r: r.cache.publish())
        ranks.each(lambda r: r.cache.apply())
    for rank in ranks:
        rank.cache.close()
        assert not rank.cache.tree._state.plans
        rank.check_ledger()
        for pool in (*rank.device.values(), *rank.host.values()):
            counts = {state.name: n for state, n in pool.allocator.counts().items()}
            assert counts["RESERVED"] == counts["IO"] == 0
