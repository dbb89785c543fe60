"""SGLang's own cache controllers over the plug-in, with their threads and not a line changed."""

from pathlib import Path
from typing import Any

import pytest
import sglang_pools as sg

NUM_PAGES = 140  # more than a batch of 128
NUM_SLOTS = NUM_PAGES * sg.PAGE_SIZE // 2
TOKENS = list(range(NUM_PAGES * sg.PAGE_SIZE))
HASHES = sg.page_hashes(NUM_PAGES)
TIMEOUT_S = 30.0


def write(made: Any, pool: Any, pages: list[int], others: list | None = None) -> int:
    """As the cache's backup of the first pages of TOKENS: how many tokens were acknowledged."""
    args: dict[str, Any] = {"hash_value": HASHES[: len(pages)]}
    if others is not None:
        args["extra_pools"] = others
    made.write_storage(sg.slots_of(pool, pages), TOKENS[: len(pages) * sg.PAGE_SIZE], **args)
    return int(made.ack_backup_queue.get(timeout=TIMEOUT_S).completed_tokens)


def prefetch(made: Any, pool: Any, pages: list[int], others: list | None = None) -> tuple[int, int]:
    """As the cache does it, with its allocation in between: tokens that were hit, and that came."""
    if others is None:
        made.prefetch("request", TOKENS)
    else:
        made.prefetch(sg.CacheRequestHandle("request", 0), TOKENS, extra_pools=others)
    operation = made.prefetch_hit_queue.get(timeout=TIMEOUT_S)
    num_hit = operation.storage_hit_count
    operation.host_indices = sg.slots_of(pool, pages)[:num_hit]
    made.prefetch_buffer.put(operation)
    num_arrived = 0
    while True:
        ack = made.ack_prefetch_queue.get(timeout=TIMEOUT_S)
        num_arrived = max(num_arrived, ack.completed_tokens or 0)
        if ack.completed_req:
            return num_hit, num_arrived


CASES = [
    *[("mha", layout, v1) for layout in sg.MHA_LAYOUTS[:4] for v1 in (0, 1)],
    ("mha", "page_unified", 1),  # SGLang has no flat pages of it
    *[("mla", layout, v1) for layout in sg.MLA_LAYOUTS for v1 in (0, 1)],
]


@pytest.mark.parametrize(("kind", "layout", "v1"), CASES)
def test_pages_outlive_the_server(tmp_path: Path, kind: str, layout: str, v1: int) -> None:
    def make() -> Any:
        if kind == "mla":
            return sg.mla_pool(layout, num_slots=NUM_SLOTS)
        return sg.mha_pool(layout, num_heads=1, num_slots=NUM_SLOTS)

    source, target = make(), make()
    sg.fill(source, 1)
    pages, places = list(range(NUM_PAGES))[::-1], list(range(NUM_PAGES))
    extra = {"root": str(tmp_path), "interface_v1": v1}
    with sg.controller({"kv": source}, extra, is_mla_model=kind == "mla") as made:
        assert prefetch(made, source, places) == (0, 0)
        assert write(made, source, pages) == len(TOKENS)
    with sg.controller({"kv": target}, extra, is_mla_model=kind == "mla") as made:
        assert prefetch(made, target, places) == (len(TOKENS), len(TOKENS))
    for page, place in zip(pages, places, strict=True):
        assert sg.page_bytes(target, place) == sg.page_bytes(source, page)


@pytest.mark.parametrize("v1", [0, 1])
def test_latents_are_written_by_one_rank_and_read_by_all(tmp_path: Path, v1: int) -> None:
    extra = {"root": str(tmp_path), "interface_v1": v1}
    source, target = sg.mla_pool("page_first"), sg.mla_pool("page_first")
    sg.fill(source, 1)
    ranks = {"num_ranks": 2, "is_mla_model": True}
    with sg.controller({"kv": source}, extra, rank=1, **ranks) as made:
        assert write(made, source, [0, 1]) == 0 and made.storage_backend.stats()["num_pages"] == 0
    with sg.controller({"kv": source}, extra, rank=0, **ranks) as made:
        assert write(made, source, [0, 1]) == 2 * sg.PAGE_SIZE
    with sg.controller({"kv": target}, extra, rank=1, **ranks) as made:
        assert prefetch(made, target, list(range(20))) == (2 * sg.PAGE_SIZE, 2 * sg.PAGE_SIZE)
    assert [sg.page_bytes(target, p) for p in (0, 1)] == [sg.page_bytes(source, p) for p in (0, 1)]


def test_head_groups_through_the_controller(tmp_path: Path) -> None:
    """tp_lcm_size as the user sets it: two ranks write, one reads."""
    extra = {"root": str(tmp_path), "interface_v1": 1, "tp_lcm_size": 2}
    halves = [sg.mha_pool("page_head", num_heads=4) for _ in range(2)]
    for rank, pool in enumerate(halves):
        sg.fill(pool, seed=rank)
        with sg.controller({"kv": pool}, extra, rank=rank, num_ranks=2) as made:
            assert write(made, pool, [3, 1]) == 2 * sg.PAGE_SIZE
    whole = sg.mha_pool("page_head", num_heads=8)
    with sg.controller({"kv": whole}, extra) as made:
        assert prefetch(made, whole, list(range(20))) == (2 * sg.PAGE_SIZE, 2 * sg.PAGE_SIZE)
    for place, page in enumerate([3, 1]):
        for rank, pool in enumerate(halves):
            found = whole.kv_buffer[:, place, rank * 4 : rank * 4 + 4]
            assert sg.same_bytes(found, pool.kv_buffer[:, page])


def other_transfers(pools: dict[str, Any], end: int, *, is_query: bool) -> list:
    """A state at page `end`, a window of three before it; only placeholders in a query."""
    transfers = []
    for name, num_pages in (("mamba", 1), ("swa", 3)):
        keys = HASHES[end - num_pages : end]
        slots = sg.slots_of(pools[name], list(range(num_pages)))
        transfers.append(
            sg.PoolTransfer(
                name=sg.PoolName(name),
                keys=["placeholder"] * num_pages if is_query else keys,
                host_indices=slots,
                hit_policy=sg.PoolHitPolicy.TRAILING_PAGES,
            )
        )
    return transfers


def hybrid_pools() -> dict[str, Any]:
    return {
        "kv": sg.mha_pool("page_first", num_heads=1),
        "mamba": sg.mamba_pool(),
        "swa": sg.mha_pool("page_first", num_heads=2),
    }


@pytest.mark.parametrize("v1", [0, 1])
def test_states_and_windows_come_with_the_longest_endpoint(tmp_path: Path, v1: int) -> None:
    """Ten pages of KV, a state and its window at 5 and at 8: a prefetch restores eight."""
    extra = {"root": str(tmp_path), "interface_v1": v1}
    source, target = hybrid_pools(), hybrid_pools()
    for seed, pool in enumerate(source.values()):
        sg.fill(pool, seed)
    with sg.controller(source, extra) as made:
        for end in (5, 8):
            others = other_transfers(source, end, is_query=False)
            assert write(made, source["kv"], list(range(10)), others) == 10 * sg.PAGE_SIZE
    with sg.controller(target, extra) as made:
        made.prefetch(
            sg.CacheRequestHandle("r", 0),
            TOKENS,
            extra_pools=other_transfers(target, 8, is_query=True),
        )
        operation = made.prefetch_hit_queue.get(timeout=TIMEOUT_S)
        assert operation.pool_storage_result.restorable_prefix_pages == [5, 8]
        assert operation.storage_hit_count == 8 * sg.PAGE_SIZE
        operation.host_indices = sg.slots_of(target["kv"], list(range(8)))
        made.prefetch_buffer.put(operation)
        acks = []
        while not acks or not acks[-1].completed_req:
            acks.append(made.ack_prefetch_queue.get(timeout=TIMEOUT_S))
        (hits,) = [ack.pool_hits for ack in acks if ack.pool_hits is not None]
        assert {str(name): n for name, n in hits.items() if n} == {"mamba": 1, "swa": 3}
        assert max(ack.completed_tokens or 0 for ack in acks) == 8 * sg.PAGE_SIZE
    for name, num_pages in (("kv", 8), ("mamba", 1), ("swa", 3)):
        for page in range(num_pages):
            wanted = sg.page_bytes(source[name], page)
            assert sg.page_bytes(target[name], page) == wanted, (name, page)


@pytest.mark.parametrize("v1", [0, 1])
def test_under_sglangs_own_fault_injector(tmp_path: Path, v1: int, monkeypatch) -> None:
    """Calls that fail at random, or are late, are misses; what does arrive is exact."""
    monkeypatch.setenv("SGLANG_TEST_HICACHE_BACKEND_RANDOM_DELAY", "0.002")
    monkeypatch.setenv("SGLANG_TEST_HICACHE_BACKEND_RANDOM_FAILURE", "0.5")
    extra = {"root": str(tmp_path), "interface_v1": v1}
    source, target = (sg.mha_pool("page_first", num_heads=1) for _ in range(2))
    sg.fill(source, 1)
    outcomes = set()
    with sg.controller({"kv": source}, extra) as made:
        assert type(made.storage_backend) is sg.HiCacheStorageFailureInjector
        for _ in range(200):
            if write(made, source, [0, 1, 2]):
                break
    with sg.controller({"kv": target}, extra) as made:
        for _ in range(60):
            target.kv_buffer.zero_()
            hit, arrived = prefetch(made, target, list(range(20)))
            outcomes.add((hit, arrived))
            for page in range(arrived // sg.PAGE_SIZE):
                assert sg.page_bytes(target, page) == sg.page_bytes(source, page)
    assert outcomes == {(0, 0), (12, 0), (12, 12)}


def test_storage_goes_and_comes_back_at_run_time(tmp_path: Path) -> None:
    """What PUT and DELETE /hicache/storage-backend do, and the clear between them."""
    pool = sg.mha_pool("page_first", num_heads=1)
    extra = {"root": str(tmp_path), "interface_v1": 1}
    with sg.controller({"kv": pool}, extra, enable_storage_metrics=True) as made:
        write(made, pool, [0, 1])
        backend = made.storage_backend
        assert backend.get_stats().backup_pgs == [2]
        made.detach_storage_backend()
        assert backend.batch_exists(HASHES) == 0, "closed with it"
        made.attach_storage_backend("dynamic", 16, "test/model", {**sg.PLUGIN, **extra})
        assert prefetch(made, pool, list(range(20))) == (8, 8)
        assert made.storage_backend.clear() is True
        assert prefetch(made, pool, list(range(20))) == (0, 0)
