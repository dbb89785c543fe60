"""batch_exists_v2 against the definition, page by page, and against SGLang's own file backend."""

import random
from pathlib import Path

import pytest
import sglang_pools as sg

NUM_PAGES = 12
KEYS = sg.page_hashes(NUM_PAGES)
ALL, TRAILING = sg.PoolHitPolicy.ALL_PAGES, sg.PoolHitPolicy.TRAILING_PAGES
NUM_CASES = 200


def transfer(name: str, policy: sg.PoolHitPolicy, num_needed: int) -> sg.PoolTransfer:
    """As the assembler of SGLang makes it: the keys of a trailing pool are placeholders."""
    keys = ["placeholder"] * num_needed if policy is TRAILING else None
    return sg.PoolTransfer(name=sg.PoolName(name), keys=keys, hit_policy=policy)


def expected(num_keys: int, present: dict[str, set[int]], transfers: list) -> tuple:
    """From the definition: an endpoint e is legal if each pool has what it needs for e pages."""

    def needs(e: int, name: str, policy: sg.PoolHitPolicy, n: int) -> bool:
        first = 0 if policy is ALL else max(0, e - max(1, n))  # no placeholder stands for one
        return all(page in present[name] for page in range(first, e))

    kv = max(e for e in range(num_keys + 1) if all(page in present["kv"] for page in range(e)))
    hits = {"kv": kv}
    legal = {e for e in range(1, kv + 1)}
    for name, policy, n in transfers:
        own = {e for e in range(1, kv + 1) if needs(e, name, policy, n)}
        hits[name] = max(own, default=0)
        legal &= own
    return max(legal, default=0), {name: n for name, n in hits.items() if n}, sorted(legal)


@pytest.fixture(scope="module")
def pools() -> dict:
    return {
        "kv": sg.mha_pool("page_first", num_heads=1),
        "swa": sg.mha_pool("page_first", num_heads=1),
        "mamba": sg.mamba_pool(),
        "indexer": sg.mha_pool("layer_first", num_heads=1),
    }


def store_pages(backend, file, pools: dict, present: dict[str, set[int]]) -> None:
    for name, pages in present.items():
        some = sorted(pages)
        written = sg.PoolTransfer(
            name=sg.PoolName(name),
            keys=[KEYS[page] for page in some],
            host_indices=sg.slots_of(pools[name], [0] * len(some)),
        )
        for store in (backend, file):
            assert all(store.batch_set_v2([written])[name])


def test_restorable_endpoints_are_those_of_the_definition(
    tmp_path: Path, pools: dict, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SGLANG_HICACHE_FILE_BACKEND_STORAGE_DIR", str(tmp_path / "file"))
    config = sg.config_of(tmp_path / "ours")
    backend, file = sg.attach(config, pools["kv"], pools), sg.HiCacheFile(config)
    for name, pool in pools.items():
        file.register_mem_host_pool_v2(pool, sg.PoolName(name))
    num_holes = 0
    for seed in range(NUM_CASES):
        rng = random.Random(seed)
        if seed % 20 == 0:  # new contents
            backend.clear()
            file.clear()
            chance = rng.choice([0.5, 0.8, 0.95])
            kv = set(range(rng.randint(0, NUM_PAGES))) | {rng.randrange(NUM_PAGES)}
            present = {"kv": kv} | {
                name: {page for page in range(NUM_PAGES) if rng.random() < chance}
                for name in ("swa", "mamba", "indexer")
            }
            store_pages(backend, file, pools, present)
        asked = [
            (name, policy, n)
            for name, policy, n in (
                ("swa", TRAILING, rng.randint(0, 4)),
                ("mamba", TRAILING, 1),
                ("indexer", rng.choice([ALL, TRAILING]), rng.randint(1, 14)),
            )
            if rng.random() < 0.7
        ]
        rng.shuffle(asked)
        num_keys = rng.randint(0, NUM_PAGES)
        transfers = [transfer(*which) for which in asked]
        told = backend.batch_exists_v2(KEYS[:num_keys], transfers)
        wanted = expected(num_keys, present, asked)
        hits = {str(name): pages for name, pages in told.extra_pool_hit_pages.items()}
        found = (told.kv_hit_pages, hits, told.restorable_prefix_pages)
        assert found == wanted, f"seed {seed}: {asked}, {present}"
        theirs = file.batch_exists_v2(KEYS[:num_keys], transfers)
        # It stops at the first pool that leaves nothing: of the others it has no verdict.
        assert theirs.extra_pool_hit_pages.items() <= told.extra_pool_hit_pages.items(), seed
        assert theirs.kv_hit_pages == told.kv_hit_pages, seed
        assert (theirs.restorable_prefix_pages or []) == told.restorable_prefix_pages, seed
        num_holes += told.restorable_prefix_pages != list(range(1, told.kv_hit_pages + 1))
    assert num_holes > NUM_CASES // 10, "the sets have gaps, as windows make them"
    backend.close()


def test_compressed_blocks_never_gate_and_have_no_verdict(tmp_path: Path, pools: dict) -> None:
    backend = sg.attach(sg.config_of(tmp_path), pools["kv"], pools)
    assert all(backend.batch_set_v1(KEYS[:3], sg.slots_of(pools["kv"], [0, 1, 2])))
    blocks = sg.PoolTransfer(
        name=sg.PoolName.SWA, keys=[], hit_policy=sg.PoolHitPolicy.BLOCK_GROUPS
    )
    told = backend.batch_exists_v2(KEYS, [blocks])
    assert (told.kv_hit_pages, told.extra_pool_hit_pages) == (3, {"kv": 3})
    assert told.restorable_prefix_pages == [1, 2, 3]
    backend.close()


def test_an_anchor_without_memory_leaves_it_to_the_other_pools(tmp_path: Path, pools: dict) -> None:
    """DeepSeek V4: slots that are counted, and pools beside them that hold the bytes."""
    anchor = sg.LogicalHostPool(64 * sg.PAGE_SIZE, sg.PAGE_SIZE)
    backend = sg.attach(
        sg.config_of(tmp_path, is_mla_model=True), anchor, {"kv": anchor, "swa": pools["swa"]}
    )
    assert backend.batch_set_v1(KEYS, sg.slots_of(anchor, list(range(NUM_PAGES)))) == [True] * 12
    assert backend.batch_exists(KEYS) == 0, "nobody has asked the pools that decide"
    written = sg.PoolTransfer(
        name=sg.PoolName.SWA, keys=KEYS[:2], host_indices=sg.slots_of(pools["swa"], [0, 1])
    )
    assert backend.batch_set_v2([written]) == {"swa": [True] * 2}
    told = backend.batch_exists_v2(KEYS, [transfer("swa", ALL, 0)])
    assert (told.kv_hit_pages, told.restorable_prefix_pages) == (2, [1, 2])
    assert backend.batch_get_v1(KEYS[:2], sg.slots_of(anchor, [0, 1])) == [True] * 2
    backend.close()


def test_the_query_is_linear_in_pages_and_pools(tmp_path: Path, pools: dict, monkeypatch) -> None:
    """One question per pool, of the pages that have their KV, however long the windows are."""
    backend = sg.attach(sg.config_of(tmp_path), pools["kv"], pools)
    assert all(backend.batch_set_v1(KEYS[:5], sg.slots_of(pools["kv"], [0] * 5)))
    asked = []
    real = type(backend._pools).exists

    def exists(self, name, keys, limit):
        asked.append((name, len(keys)))
        return real(self, name, keys, limit)

    monkeypatch.setattr(type(backend._pools), "exists", exists)
    backend.batch_exists_v2(KEYS, [transfer("swa", TRAILING, 4), transfer("mamba", TRAILING, 1)])
    assert asked == [("kv", NUM_PAGES), ("swa", 5), ("mamba", 5)]
    backend.close()
