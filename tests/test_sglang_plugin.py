"""The plug-in behind SGLang's own storage interface, on SGLang's own host pools."""

from pathlib import Path

import pytest
import sglang_pools as sg
import torch

SOURCE, TARGET = [1, 5, 2, 9], [7, 0, 3, 4]  # pages that are written, and where they are read to
KEYS = sg.page_hashes(len(SOURCE))


def round_trip_v1(writer, reader, source, target) -> None:
    """Writes pages SOURCE of one pool, reads them to TARGET of another; nothing else changes."""
    sg.fill(source, 1)
    sg.fill(target, 2)
    before = sg.contents(source)
    untouched = [page for page in range(10) if page not in TARGET]
    kept = [sg.page_bytes(target, page) for page in untouched]
    assert writer.batch_exists(KEYS) == 0
    assert writer.batch_set_v1(KEYS, sg.slots_of(source, SOURCE)) == [True] * len(KEYS)
    assert all(torch.equal(a, b) for a, b in zip(before, sg.contents(source), strict=True))
    assert reader.batch_exists(KEYS) == len(KEYS)
    assert reader.batch_get_v1(KEYS, sg.slots_of(target, TARGET)) == [True] * len(KEYS)
    for page, place in zip(SOURCE, TARGET, strict=True):
        assert sg.page_bytes(target, place) == sg.page_bytes(source, page)
    assert [sg.page_bytes(target, page) for page in untouched] == kept


POOLS = {
    **{f"mha-{layout}": (sg.mha_pool, layout) for layout in sg.MHA_LAYOUTS},
    **{f"mla-{layout}": (sg.mla_pool, layout) for layout in sg.MLA_LAYOUTS},
    "wide_k-page_first": (lambda layout: sg.mha_pool(layout, v_head_dim=8), "page_first"),
    "wide_k-direct": (lambda layout: sg.mha_pool(layout, v_head_dim=8), "page_first_direct"),
}


@pytest.mark.parametrize("case", POOLS)
def test_v1_moves_pages_bit_for_bit(tmp_path: Path, case: str) -> None:
    make, layout = POOLS[case]
    config = sg.config_of(tmp_path, is_mla_model=case.startswith("mla"))
    source, target = make(layout), make(layout)
    writer, reader = sg.attach(config, source), sg.attach(config, target)
    round_trip_v1(writer, reader, source, target)
    writer.close()
    reader.close()


FLAT_POOLS = {
    name: case for name, case in POOLS.items() if "wide" not in name and "unified" not in name
}


@pytest.mark.parametrize("case", FLAT_POOLS)
def test_v0_and_v1_read_each_others_pages(tmp_path: Path, case: str) -> None:
    make, layout = FLAT_POOLS[case]
    source, target = make(layout), make(layout)
    config = sg.config_of(tmp_path, is_mla_model=case.startswith("mla"))
    writer, reader = sg.attach(config, source), sg.attach(config, target)
    sg.fill(source, 1)
    # As _generic_page_set and _generic_page_get of SGLang's controller do it.
    flat = [source.get_data_page(page * sg.PAGE_SIZE) for page in SOURCE]
    assert writer.batch_set(KEYS[:2], flat[:2]) is True
    assert writer.batch_set_v1(KEYS[2:], sg.slots_of(source, SOURCE[2:])) == [True] * 2
    assert reader.batch_get_v1(KEYS[:2], sg.slots_of(target, TARGET[:2])) == [True] * 2
    dummies = [target.get_dummy_flat_data_page() for _ in KEYS]
    read = reader.batch_get(KEYS, dummies)
    assert all(page is dummy for page, dummy in zip(read, dummies, strict=True))
    for i in (2, 3):
        target.set_from_flat_data_page(TARGET[i] * sg.PAGE_SIZE, read[i])
    for page, place in zip(SOURCE, TARGET, strict=True):
        assert sg.page_bytes(target, place) == sg.page_bytes(source, page)
    writer.close()
    reader.close()


def test_v0_of_single_keys_and_of_misses(tmp_path: Path) -> None:
    pool = sg.mha_pool("page_first")
    backend = sg.attach(sg.config_of(tmp_path), pool)
    sg.fill(pool, 1)
    page, dummy = pool.get_data_page(0), pool.get_dummy_flat_data_page()
    assert not backend.exists(KEYS[0]) and backend.get(KEYS[0], dummy) is None
    assert backend.set(KEYS[0], page) is True and backend.set(KEYS[0], page) is True
    assert backend.exists(KEYS[0]) and backend.get(KEYS[0], dummy) is dummy
    assert torch.equal(dummy.view(torch.uint8), page.view(torch.uint8))
    got = backend.batch_get([KEYS[1], KEYS[0]], [dummy, dummy])
    assert got[0] is None and got[1] is dummy
    assert backend.batch_set([], []) is True and backend.batch_get([], []) == []
    assert backend.batch_exists([]) == 0
    backend.close()


@pytest.mark.parametrize("num_side_states", [0, 1])
def test_v2_moves_states_and_windows(tmp_path: Path, num_side_states: int) -> None:
    """Mamba states in several tensors; with side states SGLang only has them as flat pages."""
    config = sg.config_of(tmp_path)

    def make() -> dict:
        return {
            "kv": sg.mha_pool("page_first"),
            "mamba": sg.mamba_pool(num_side_states),
            "swa": sg.mha_pool("page_first", num_heads=2),
        }

    source, target = make(), make()
    writer, reader = (sg.attach(config, pools["kv"], pools) for pools in (source, target))
    for seed, pools in enumerate((source, target)):
        for pool in pools.values():
            sg.fill(pool, seed)
        for tensor in (*pools["mamba"].conv_buffer, *pools["mamba"].slot_state_buffers):
            tensor.copy_(torch.randn(tensor.shape))

    def transfers(pools: dict, pages: list[int]) -> list:
        return [
            sg.PoolTransfer(
                name=sg.PoolName(name),
                keys=KEYS[-n:],
                host_indices=sg.slots_of(pools[name], pages[-n:]),
            )
            for name, n in (("mamba", 1), ("swa", 3))
        ]

    assert writer.batch_set_v2(transfers(source, SOURCE)) == {"mamba": [True], "swa": [True] * 3}
    assert reader.batch_get_v2(transfers(target, TARGET)) == {"mamba": [True], "swa": [True] * 3}
    for name, n in (("mamba", 1), ("swa", 3)):
        for page, place in zip(SOURCE[-n:], TARGET[-n:], strict=True):
            assert sg.page_bytes(target[name], place) == sg.page_bytes(source[name], page), name
    assert writer.batch_exists(KEYS) == 0  # nothing of it was KV
    writer.close()
    reader.close()


@pytest.mark.parametrize("layout", sg.MLA_LAYOUTS)
def test_v2_moves_packed_pages_beside_an_anchor_without_memory(tmp_path: Path, layout: str) -> None:
    config = sg.config_of(tmp_path, is_mla_model=True)
    anchor = sg.LogicalHostPool(64 * sg.PAGE_SIZE, sg.PAGE_SIZE)
    source, target = sg.paged_pool(layout), sg.paged_pool(layout)
    sg.fill(source, 1)
    name = sg.PoolName.DEEPSEEK_V4_C4
    for pool, pages, call in (
        (source, SOURCE, "batch_set_v2"),
        (target, TARGET, "batch_get_v2"),
    ):
        backend = sg.attach(config, anchor, {"kv": anchor, name.value: pool})
        transfer = sg.PoolTransfer(name=name, keys=KEYS, host_indices=sg.slots_of(pool, pages))
        assert getattr(backend, call)([transfer]) == {name: [True] * len(KEYS)}
        backend.close()
    for page, place in zip(SOURCE, TARGET, strict=True):
        assert sg.page_bytes(target, place) == sg.page_bytes(source, page)


@pytest.mark.parametrize("layout", sg.MLA_LAYOUTS)
def test_v2_moves_the_keys_of_an_indexer(tmp_path: Path, layout: str) -> None:
    source, target = sg.indexer_pools(layout), sg.indexer_pools(layout)
    sg.fill(source["indexer"], 1)
    config = sg.config_of(tmp_path, is_mla_model=True)
    writer, reader = (sg.attach(config, pools["kv"], pools) for pools in (source, target))
    transfers = [
        sg.PoolTransfer(
            name=sg.PoolName.INDEXER, keys=KEYS, host_indices=sg.slots_of(pools["indexer"], pages)
        )
        for pools, pages in ((source, SOURCE), (target, TARGET))
    ]
    assert reader.batch_get_v2(transfers[1:]) == {"indexer": [False] * len(KEYS)}
    assert writer.batch_set_v2(transfers[:1]) == {"indexer": [True] * len(KEYS)}
    assert reader.batch_get_v2(transfers[1:]) == {"indexer": [True] * len(KEYS)}
    for page, place in zip(SOURCE, TARGET, strict=True):
        wanted = sg.page_bytes(source["indexer"], page)
        assert sg.page_bytes(target["indexer"], place) == wanted
    writer.close()
    reader.close()


def test_a_pool_that_was_destroyed_holds_nothing(tmp_path: Path) -> None:
    """SGLang drops its memory at the end; that is not a pool that only counts."""
    pool = sg.mha_pool("page_first")
    backend = sg.attach(sg.config_of(tmp_path), pool)
    assert all(backend.batch_set_v1(KEYS, sg.slots_of(pool, SOURCE)))
    pool.destroy()
    assert backend.batch_get_v1(KEYS, sg.slots_of(pool, SOURCE)) == [False] * len(KEYS)
    backend.close()


@pytest.mark.parametrize("layout", ["page_first", "layer_first"])
def test_wrong_arguments_are_a_miss_and_not_an_error(tmp_path: Path, layout: str) -> None:
    pool = sg.mha_pool(layout)
    backend = sg.attach(sg.config_of(tmp_path), pool)
    assert backend.batch_set_v1(KEYS, sg.slots_of(pool, SOURCE[:3])) == [False] * 4
    assert backend.batch_get_v1(KEYS, sg.slots_of(pool, SOURCE[:3])) == [False] * 4
    assert backend.batch_set(KEYS, [pool.get_data_page(0)]) is False
    assert backend.batch_get(KEYS, None) == [None] * 4
    for first in (-1, -4, 200, pool.size - 3, pool.size, 1 << 40):
        slots = torch.arange(first, first + sg.PAGE_SIZE)
        assert backend.batch_set_v1(KEYS[:1], slots) == [False], "an address that nobody owns"
    unknown = sg.PoolTransfer(
        name=sg.PoolName.SWA, keys=KEYS, host_indices=sg.slots_of(pool, SOURCE)
    )
    assert backend.batch_get_v2([unknown]) == {"swa": [False] * 4}
    unresolved = sg.PoolTransfer(name=sg.PoolName.KV, keys=KEYS, host_indices=None)
    assert backend.batch_set_v2([unresolved]) == {"kv": [False] * 4}
    assert backend.stats()["num_failed_calls"] == 12 and backend.stats()["num_pages"] == 0
    backend.close()


def test_after_close_everything_is_a_miss(tmp_path: Path) -> None:
    pool = sg.mha_pool("page_first")
    backend = sg.attach(sg.config_of(tmp_path), pool)
    backend.batch_set_v1(KEYS, sg.slots_of(pool, SOURCE))
    backend.close()
    backend.close()
    assert backend.batch_exists(KEYS) == 0
    assert backend.batch_get_v1(KEYS, sg.slots_of(pool, TARGET)) == [False] * 4
    assert backend.batch_set_v1(KEYS, sg.slots_of(pool, TARGET)) == [False] * 4
    assert backend.clear() is False


def test_clear_forgets_this_model_alone(tmp_path: Path) -> None:
    pool = sg.mha_pool("page_first")
    ours = sg.attach(sg.config_of(tmp_path), pool)
    others = sg.attach(sg.config_of(tmp_path, model_name="another"), pool)
    for backend in (ours, others):
        assert all(backend.batch_set_v1(KEYS, sg.slots_of(pool, SOURCE)))
    assert ours.clear() is True
    assert (ours.batch_exists(KEYS), others.batch_exists(KEYS)) == (0, len(KEYS))
    ours.close()
    others.close()


def test_a_failing_store_is_a_miss(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog) -> None:
    pool = sg.mha_pool("page_first")
    backend = sg.attach(sg.config_of(tmp_path), pool)
    backend.batch_set_v1(KEYS, sg.slots_of(pool, SOURCE))

    def fail(*args: object) -> list[bool]:
        raise RuntimeError("the disk is on fire")

    for name in ("exists_many", "read_many", "write_many", "clear"):
        monkeypatch.setattr(f"hicache_ext.storage.SegmentStore.{name}", fail)
    assert backend.batch_exists(KEYS) == 0 and not backend.exists(KEYS[0])
    assert backend.batch_exists_v2(KEYS, []).kv_hit_pages == 0
    assert backend.batch_get_v1(KEYS, sg.slots_of(pool, TARGET)) == [False] * 4
    assert backend.batch_set_v1(KEYS, sg.slots_of(pool, TARGET)) == [False] * 4
    assert backend.clear() is False
    assert backend.stats()["num_failed_calls"] == 6
    assert caplog.text.count("on fire") == 1, "one line for all of them"
    backend.close()


def test_stats_are_what_sglang_exports(tmp_path: Path) -> None:
    pool = sg.mha_pool("page_first")
    quiet = sg.attach(sg.config_of(tmp_path), pool)
    assert quiet.get_stats() is None
    backend = sg.attach(sg.config_of(tmp_path, enable_storage_metrics=True), pool)
    assert all(backend.batch_set_v1(KEYS, sg.slots_of(pool, SOURCE)))
    assert backend.batch_get_v1([*KEYS[:3], "0" * 64], sg.slots_of(pool, TARGET)) == [True] * 3 + [
        False
    ]
    assert backend.batch_get_v1(["0" * 64], sg.slots_of(pool, TARGET[:1])) == [False]
    stats = backend.get_stats()
    assert type(stats) is sg.StorageMetrics
    assert (stats.backup_pgs, stats.prefetch_pgs) == ([4], [3])
    assert len(stats.backup_bandwidth) == len(stats.prefetch_bandwidth) == 1
    assert min(stats.backup_bandwidth + stats.prefetch_bandwidth) > 0
    assert backend.get_stats() == sg.StorageMetrics(), "each sample is told once"
    quiet.close()
    backend.close()
