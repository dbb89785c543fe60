"""Sidecars: pools without ids of their own, which are a part of each page of another pool."""

from __future__ import annotations

from typing import Any

import pytest
from ranks import PAGE_SIZE, Rank, Ranks, check_device, keys_of_pages, make_pools

from hicache_ext.agreement.local import LocalGroup
from hicache_ext.cache import HiCache
from hicache_ext.config import CacheConfig
from hicache_ext.errors import LayoutError
from hicache_ext.flow.record import Outcome
from hicache_ext.match import Match
from hicache_ext.pool import Access, PagePool
from hicache_ext.tier import Tier

SIDECARS = {"indexer": "full", "draft": "mamba"}
LAYERS = {"full": 2, "swa": 3, "mamba": 1, "indexer": 2, "draft": 4}
NUM_PAGES = 6
TOKENS = list(range(NUM_PAGES * PAGE_SIZE))


@pytest.fixture(params=[1, 3])
def ranks(request: pytest.FixtureRequest) -> Any:
    made = Ranks(request.param, layers=LAYERS, has_mamba=True, sidecars=SIDECARS)
    yield made
    made.close()


def with_sidecars(pages: dict[str, list[int]]) -> dict[str, list[int]]:
    return pages | {sidecar: pages[name] for sidecar, name in SIDECARS.items()}


def prefill(rank: Rank, num_pages: int = NUM_PAGES) -> Match:
    """One request whose last page has a state."""
    tokens = TOKENS[: num_pages * PAGE_SIZE]
    match = rank.cache.match(tokens)
    assert match.num_tokens == 0
    new = rank.cache.alloc({"full": num_pages, "swa": num_pages, "mamba": 1})
    assert new is not None
    pages = new | {"mamba": [-1] * (num_pages - 1) + new["mamba"]}
    rank.write_device(tokens, with_sidecars(pages))
    rank.cache.insert(match, tokens, pages)
    return match


def poison_device(rank: Rank) -> None:
    for pool in rank.device.values():
        pool.poison(range(pool.capacity))


def load_back(ranks: Ranks, num_device: int = 0) -> None:
    """Everything comes back from the host, with its bytes."""
    matches = ranks.each(lambda r: r.cache.match(TOKENS))
    assert {(m.num_device_tokens, m.num_tokens) for m in matches} == {(num_device, len(TOKENS))}
    for rank, match in zip(ranks, matches, strict=True):
        assert rank.cache.device_need(match, 1) == {"full": 7, "swa": 4, "mamba": 2}
        rank.cache.load_back(match)
    ranks.drain()
    for rank, match in zip(ranks, matches, strict=True):
        assert match.num_device_tokens == len(TOKENS)
        assert [sum(i >= 0 for i in ids) for ids in match.pages.values()] == [6, 3, 1]
        check_device(rank, TOKENS, with_sidecars(match.pages))
        rank.cache.release(match)
    ranks.check_idle()


def test_down_to_the_host_and_back_with_window_state_and_sidecars(ranks: Ranks) -> None:
    ranks.each(lambda r: r.cache.release(prefill(r)))
    for records in ranks.drain():
        assert [r.outcome for r in records] == [Outcome.COMMITTED]
    for rank in ranks:
        rank.check_host(TOKENS)
        rank.cache.flush(Tier.DEVICE)
        poison_device(rank)
    load_back(ranks)


def test_one_launch_has_all_pools_and_sidecars(monkeypatch: pytest.MonkeyPatch) -> None:
    ranks = Ranks(1, layers=LAYERS, has_mamba=True, sidecars=SIDECARS)
    pools, launches = ranks[0].cache.pools, []
    launch = pools._start
    monkeypatch.setattr(
        pools, "_start", lambda parts, *a: (launches.append(len(parts)), launch(parts, *a))[1]
    )
    ranks[0].cache.release(prefill(ranks[0]))
    ranks.drain()
    ranks[0].cache.flush(Tier.DEVICE)
    load_back(ranks)
    assert launches == [5, 5, 4, 2, 1]  # all layers at once; then 0 to 3, of those that have them
    ranks.close()


def test_down_to_the_store_and_back(ranks: Ranks) -> None:
    ranks.each(lambda r: r.cache.release(prefill(r)))
    ranks.drain()
    for rank in ranks:
        for name, (first, last) in {"indexer": (0, 6), "draft": (5, 6)}.items():
            have = rank.store.exists(name, keys_of_pages(TOKENS))
            assert have == [first <= i < last for i in range(NUM_PAGES)], name
        rank.cache.flush()
        for pool in rank.host.values():
            pool.poison(range(pool.capacity))
        poison_device(rank)
    ranks.each(lambda r: r.cache.prefetch([*TOKENS, 0]))
    for (record,) in ranks.drain():
        assert (record.outcome, record.num_committed_tokens) == (Outcome.COMMITTED, len(TOKENS))
    ranks.each(lambda r: r.check_host(TOKENS))
    load_back(ranks)


@pytest.mark.parametrize(("sidecar", "page", "num_hit"), [("indexer", 5, 0), ("draft", 5, 0)])
def test_a_page_without_its_sidecar_is_no_hit(
    ranks: Ranks, sidecar: str, page: int, num_hit: int
) -> None:
    """On one rank alone: then on none."""
    ranks.each(lambda r: r.cache.release(prefill(r)))
    ranks.drain()
    ranks.each(lambda r: r.cache.flush())
    ranks[-1].store.remove(sidecar, keys_of_pages(TOKENS)[page : page + 1])
    ranks.each(lambda r: r.cache.prefetch([*TOKENS, 0]))
    for (record,) in ranks.drain():
        assert record.num_agreed_tokens == num_hit * PAGE_SIZE
    ranks.check_idle()


def test_a_sidecar_page_that_is_not_read_shortens_the_prefix() -> None:
    """It was there when asked for and is gone when read: FULL alone, so the rest stays."""
    ranks = Ranks(
        2, layers={"full": 2, "indexer": 1}, window_tokens=None, sidecars={"indexer": "full"}
    )
    for rank in ranks:
        for name in ("full", "indexer"):
            rank.put(name, keys_of_pages(TOKENS))
    read = ranks[0].store.read_into

    def loses_page_2(pool: str, keys: Any, pages: Any, limit: Any = None) -> list[bool]:
        arrived = read(pool, keys, pages)
        return [ok and not (pool == "indexer" and i == 2) for i, ok in enumerate(arrived)]

    ranks[0].store.read_into = loses_page_2
    ranks.each(lambda r: r.cache.prefetch([*TOKENS, 0]))
    for (record,) in ranks.drain():
        assert record.num_committed_tokens == 2 * PAGE_SIZE
    ranks.check_idle()
    ranks.close()


def test_the_sidecar_is_in_the_store_before_its_page_shows() -> None:
    rank = Rank(0, LocalGroup(), layers=LAYERS, has_mamba=True, sidecars=SIDECARS)
    write, order = rank.store.write_from, []
    rank.store.write_from = lambda pool, *args: (order.append(pool), write(pool, *args))[1]
    rank.cache.release(prefill(rank))
    rank.cache.drain()
    assert order[-1] == "full" and sorted(order) == sorted(LAYERS)
    rank.close()


def test_parked_with_its_sidecars(ranks: Ranks) -> None:
    handles = []
    for rank in ranks:
        match = rank.cache.match(TOKENS)
        new = rank.cache.alloc({"full": 6, "swa": 6, "mamba": 1})
        pages = new | {"mamba": [-1] * 5 + new["mamba"]}
        rank.write_device(TOKENS, with_sidecars(pages))
        handles.append(rank.cache.park(match, len(TOKENS), pages))
    ranks.drain()
    for rank, handle in zip(ranks, handles, strict=True):
        poison_device(rank)
        rank.cache.restore(handle)
    ranks.drain()
    for rank, handle in zip(ranks, handles, strict=True):
        check_device(rank, TOKENS, with_sidecars(handle.pages))
        rank.cache.free(handle.pages)
    ranks.check_idle()


def make(sidecars: dict[str, str], num_sidecar: int = 8) -> HiCache:
    device, host = make_pools(8, 8, {"full": 1})
    for pools, more in zip((device, host), make_pools(num_sidecar, 8, {"x": 1}), strict=True):
        pools.update(more)  # type: ignore[arg-type]
    return HiCache(CacheConfig(page_size=PAGE_SIZE, sidecars=sidecars), device, host)


def test_sidecars_that_cannot_be() -> None:
    with pytest.raises(LayoutError, match="sidecar x follows swa, which is none of"):
        make({"x": "swa"})
    with pytest.raises(LayoutError, match="sidecar x has 7 pages on DEVICE, full has 8"):
        make({"x": "full"}, num_sidecar=7)
    with pytest.raises(LayoutError, match="do not fit components"):
        make({})
    make({"x": "full"}).close()


def test_pages_are_handed_out_when_no_copy_uses_their_sidecars_part(
    ranks: Ranks, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only copies of the followed pool were waited for: the next request wrote under a read."""
    waited: list[tuple[str, list[int], Access]] = []
    monkeypatch.setattr(
        PagePool,
        "wait_for_copies",
        lambda pool, ids, access, stream=None: waited.append((pool.name, list(ids), access)),
    )
    held = ranks[0].cache.alloc({"full": 2, "swa": 1, "mamba": 1})
    assert held is not None
    assert waited == [
        ("indexer", held["full"], Access.WRITE),
        ("draft", held["mamba"], Access.WRITE),
    ]
    ranks[0].cache.free(held)
