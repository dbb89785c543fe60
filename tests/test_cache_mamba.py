"""HiCache with recurrent layers: states go to the store and come back with the other pages."""

from __future__ import annotations

import pytest
import ranks as ranks_module
from ranks import PAGE_SIZE, Rank, Ranks, check_device

from hicache_ext.agreement.local import LocalGroup
from hicache_ext.errors import LayoutError, TreeError
from hicache_ext.tier import Tier


@pytest.fixture(autouse=True)
def pools_with_states(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(ranks_module.NUM_LAYERS, "mamba", 1)


def serve(rank: Rank, tokens: list[int], ends: tuple[int, ...]) -> None:
    """Prefills in chunks that end behind so many pages, with a state at the end of each."""
    cache = rank.cache
    match = cache.match(tokens)
    for end in ends:
        num_new = end - len(match.pages["full"])
        new = cache.alloc({"full": num_new, "swa": num_new, "mamba": 1})
        assert new is not None
        new["mamba"] = [-1] * (num_new - 1) + new["mamba"]
        upto = tokens[: end * PAGE_SIZE]
        holes = [-1] * (end - num_new)
        rank.write_device(upto, {name: holes + ids for name, ids in new.items()})
        cache.insert(match, upto, {name: match.pages[name] + new[name] for name in new})
    cache.release(match)


def test_states_go_down_to_the_store_and_come_back_with_full_and_windows() -> None:
    tokens = list(range(8 * PAGE_SIZE))
    both = Ranks(2, has_mamba=True)
    both.each(lambda r: serve(r, tokens, (5, 8)))
    both.drain()
    fresh = Ranks(2, has_mamba=True)
    for mine, old in zip(fresh, both, strict=True):
        mine.cache._ctx.store = old.store
    fresh.each(lambda r: r.cache.prefetch([*tokens, 1]))
    fresh.drain()
    matches = fresh.each(lambda r: r.cache.match(tokens))
    assert [match.num_host_tokens for match in matches] == [32, 32]
    for rank, match in zip(fresh, matches, strict=True):
        rank.cache.load_back(match)
    fresh.drain()
    for rank, match in zip(fresh, matches, strict=True):
        assert match.num_device_tokens == 32
        assert match.pages["mamba"][:-1] == [-1] * 7 and match.pages["mamba"][-1] >= 0
        check_device(rank, tokens, match.pages)
        rank.cache.release(match)
    fresh.check_idle()
    both.close(), fresh.close()


def served() -> tuple[Rank, list[int]]:
    """One rank with eight pages of a prompt and the states behind the fifth and the last."""
    tokens = list(range(8 * PAGE_SIZE))
    rank = Rank(0, LocalGroup(), has_mamba=True)
    serve(rank, tokens, (5, 8))
    rank.cache.drain()
    return rank, tokens


def test_a_prompt_that_ends_between_two_states_falls_back_to_the_first() -> None:
    rank, tokens = served()
    fresh = Rank(0, LocalGroup(), store=rank.store, has_mamba=True)
    fresh.cache.prefetch([*tokens[: 7 * PAGE_SIZE], 1])
    fresh.cache.drain()
    assert fresh.cache.match(tokens[: 7 * PAGE_SIZE]).num_host_tokens == 5 * PAGE_SIZE
    fresh.check_ledger()
    rank.close(), fresh.close()


def test_a_match_on_the_device_after_eviction_of_the_last_state() -> None:
    rank, tokens = served()
    rank.cache.evict(Tier.DEVICE, {"mamba": 1})
    match = rank.cache.match(tokens)
    assert (match.num_device_tokens, match.num_tokens) == (32, 32)
    rank.cache.release(match)
    rank.cache.evict(Tier.DEVICE, {"mamba": 2})
    match = rank.cache.match(tokens)
    assert (match.num_device_tokens, match.num_tokens) == (0, 32)
    rank.cache.release(match)
    rank.close()


def test_an_insert_ends_at_a_state() -> None:
    rank = Rank(0, LocalGroup(), has_mamba=True)
    match = rank.cache.match([])
    pages = rank.cache.alloc({"full": 2, "swa": 2, "mamba": 1})
    assert pages is not None
    pages["mamba"] = [*pages["mamba"], -1]
    with pytest.raises(TreeError, match="mamba page 1 of 2 is not given"):
        rank.cache.insert(match, list(range(2 * PAGE_SIZE)), pages)
    rank.cache.free(pages)
    rank.close()


def test_the_strategy_of_the_configuration_and_the_priority_of_a_request_decide() -> None:
    rank = Rank(0, LocalGroup(), has_mamba=True, evict_strategy="priority")
    for first, priority in ((0, 5), (1000, 0), (2000, 1)):
        tokens = list(range(first, first + 4 * PAGE_SIZE))
        match = rank.cache.match(tokens)
        pages = rank.cache.alloc({"full": 4, "swa": 4, "mamba": 4})
        assert pages is not None
        rank.cache.insert(match, tokens, pages, priority)
        rank.cache.release(match)
    rank.cache.drain()
    rank.cache.evict(Tier.DEVICE, {"full": 5})
    left = [
        rank.cache.tree.match_prefix(list(range(f, f + 16))).num_device_tokens
        for f in (0, 1000, 2000)
    ]
    assert left[0] == 16 and left[1] == 0 and left[2] < 16
    rank.close()


def test_an_unknown_strategy_is_refused() -> None:
    with pytest.raises(LayoutError, match="strategy 'mru' is unknown"):
        Rank(0, LocalGroup(), has_mamba=True, evict_strategy="mru")
