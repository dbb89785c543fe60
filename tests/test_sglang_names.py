"""Which ranks and runs of SGLang read each other's pages, and which must not."""

from functools import cache
from pathlib import Path

import pytest
import sglang_pools as sg
import torch

from hicache_ext.errors import StorageError

SIZES = (1, 2, 4, 8)
NUM_HEADS, HEAD_DIM = 16, 16
PAGES, NUM_PAGES = [3, 0, 6], 8
KEYS = sg.page_hashes(len(PAGES))


@cache
def numbers() -> torch.Tensor:
    """Of every (kv, page, absolute head, token, layer, dim): what the model put there."""
    shape = (2, NUM_PAGES, NUM_HEADS, sg.PAGE_SIZE, 3, HEAD_DIM)
    axes = torch.meshgrid(*(torch.arange(n) for n in shape), indexing="ij")
    mixed = sum(i * prime for i, prime in zip(axes, (1, 3, 7, 13, 29, 53), strict=True)) % 251
    return mixed.to(torch.bfloat16)


def fill_heads(pool, rank: int) -> None:
    """The same numbers for a head, whichever rank holds it; in the first NUM_PAGES pages."""
    mine = numbers()[:, :, rank * pool.head_num : (rank + 1) * pool.head_num]
    if pool.layout == "page_head":
        pool.kv_buffer[:, :NUM_PAGES] = mine
    else:  # [page, group, layer, kv, token, head, dim]
        groups = pool.head_group_num
        cut = mine.unflatten(2, (groups, pool.head_num // groups))
        pool.kv_buffer[:NUM_PAGES] = cut.permute(1, 2, 5, 0, 4, 3, 6)


@cache
def pool_of_rank(layout: str, size: int, num_groups: int):
    return sg.mha_pool(
        layout, num_heads=NUM_HEADS // size, head_dim=HEAD_DIM, head_group_num=num_groups
    )


def attach_rank(root: Path, layout: str, rank: int, size: int, *, lcm: int = 8, **extra):
    """A rank as SGLang's controller configures it for `--tp size` with tp_lcm_size."""
    pool = pool_of_rank(layout, size, lcm // size if layout == "page_unified" else 1)
    config = sg.config_of(
        root,
        tp_rank=rank,
        tp_size=size,
        tp_lcm_size=lcm,
        should_split_heads=layout == "page_head" and lcm > size,
        extra=extra,
    )
    return sg.attach(config, pool), pool


@pytest.mark.parametrize("layout", ["page_head", "page_unified"])
@pytest.mark.parametrize("writers", SIZES)
def test_tensor_parallel_sizes_read_each_other(tmp_path: Path, layout: str, writers: int) -> None:
    for rank in range(writers):
        backend, pool = attach_rank(tmp_path, layout, rank, writers)
        fill_heads(pool, rank)
        assert backend.batch_set_v1(KEYS, sg.slots_of(pool, PAGES)) == [True] * len(PAGES)
        backend.close()
    for readers in SIZES:
        for rank in range(readers):
            backend, pool = attach_rank(tmp_path, layout, rank, readers)
            fill_heads(pool, rank)
            wanted = [sg.page_bytes(pool, page) for page in PAGES]
            pool.kv_buffer.zero_()
            assert backend.batch_exists(KEYS) == len(KEYS), f"{writers} -> {readers}"
            assert all(backend.batch_get_v1(KEYS, sg.slots_of(pool, PAGES)))
            assert [sg.page_bytes(pool, page) for page in PAGES] == wanted, (
                f"{writers} -> {readers}"
            )
            backend.close()


def test_sixteen_shares_of_a_page(tmp_path: Path) -> None:
    """In 32 pieces, K and V of each share."""
    whole, pool = attach_rank(tmp_path, "page_head", 0, 1, lcm=16)
    fill_heads(pool, 0)
    assert all(whole.batch_set_v1(KEYS, sg.slots_of(pool, PAGES)))
    rank, mine = attach_rank(tmp_path, "page_head", 11, 16, lcm=16)
    assert all(rank.batch_get_v1(KEYS, sg.slots_of(mine, PAGES)))
    assert sg.same_bytes(mine.kv_buffer[:, PAGES], pool.kv_buffer[:, PAGES, 11:12])
    whole.close()
    rank.close()


def test_v0_reads_pages_cut_by_heads(tmp_path: Path) -> None:
    for rank in range(8):
        backend, pool = attach_rank(tmp_path, "page_head", rank, 8)
        fill_heads(pool, rank)
        assert (
            backend.batch_set(KEYS, [pool.get_data_page(p * sg.PAGE_SIZE) for p in PAGES]) is True
        )
        backend.close()
    backend, pool = attach_rank(tmp_path, "page_head", 1, 2)
    fill_heads(pool, 1)
    for page, found in zip(
        PAGES, backend.batch_get(KEYS, [pool.get_dummy_flat_data_page() for _ in KEYS]), strict=True
    ):
        assert sg.same_bytes(found, pool.get_data_page(page * sg.PAGE_SIZE))
    backend.close()


def test_without_a_common_multiple_sizes_do_not_mix(tmp_path: Path) -> None:
    backend, pool = attach_rank(tmp_path, "page_head", 0, 1, lcm=1)
    assert all(backend.batch_set_v1(KEYS, sg.slots_of(pool, PAGES)))
    backend.close()
    for size, lcm in ((2, 2), (1, 2), (2, 4)):
        backend, _ = attach_rank(tmp_path, "page_head", 0, size, lcm=lcm)
        assert backend.batch_exists(KEYS) == 0, (size, lcm)
        backend.close()


def test_ranks_with_the_same_head_write_it_once_and_all_read_it(tmp_path: Path) -> None:
    """Two KV heads on eight ranks: 0-3 hold the first, 4-7 the second."""
    backends, pools = [], []
    for rank in range(8):
        pool = sg.mha_pool("page_first", num_heads=1)
        config = sg.config_of(tmp_path, tp_rank=rank, tp_size=8, extra={"num_kv_heads": 2})
        backends.append(sg.attach(config, pool))
        pools.append(pool)
        sg.fill(pool, seed=rank // 4)
    for rank in reversed(range(8)):  # those that leave it to another one first
        assert all(backends[rank].batch_set_v1(KEYS, sg.slots_of(pools[rank], PAGES)))
        flat = [pools[rank].get_data_page(page * sg.PAGE_SIZE) for page in PAGES]
        assert backends[rank].batch_set(KEYS, flat) is True
    once = 2 * len(KEYS)  # K and V
    assert [b.stats()["num_written_pages"] for b in backends] == [once, 0, 0, 0, once, 0, 0, 0]
    for backend, pool in zip(backends, pools, strict=True):
        wanted = [sg.page_bytes(pool, page) for page in PAGES]
        pool.kv_buffer.zero_()
        assert all(backend.batch_get_v1(KEYS, sg.slots_of(pool, PAGES)))
        assert [sg.page_bytes(pool, page) for page in PAGES] == wanted
        backend.close()


def test_num_kv_heads_that_the_pool_contradicts_is_an_error(tmp_path: Path) -> None:
    pool = sg.mha_pool("page_first", num_heads=8)
    for num_kv_heads, tp_size in ((8, 2), (16, 1), (12, 8)):
        config = sg.config_of(tmp_path, tp_size=tp_size, extra={"num_kv_heads": num_kv_heads})
        with pytest.raises(StorageError, match=f"num_kv_heads={num_kv_heads}"):
            sg.attach(config, pool)


def test_replicated_latents_are_one_object_for_all_ranks(tmp_path: Path) -> None:
    source = sg.mla_pool("page_first")
    sg.fill(source, 1)
    writer = sg.attach(sg.config_of(tmp_path, is_mla_model=True, tp_rank=0, tp_size=4), source)
    assert all(writer.batch_set_v1(KEYS, sg.slots_of(source, PAGES)))
    for rank, size in ((1, 4), (3, 4), (0, 1), (5, 8)):
        pool = sg.mla_pool("page_first")
        config = sg.config_of(tmp_path, is_mla_model=True, tp_rank=rank, tp_size=size)
        reader = sg.attach(config, pool)
        assert all(reader.batch_get_v1(KEYS, sg.slots_of(pool, PAGES)))
        assert sg.page_bytes(pool, PAGES[0]) == sg.page_bytes(source, PAGES[0])
        reader.close()
    writer.close()


def test_states_and_drafts_with_heads_belong_to_their_rank_even_then(tmp_path: Path) -> None:
    """Mamba states beside MLA, and a draft model with K and V: a rank's own bytes."""
    pools = {
        "kv": sg.mla_pool("page_first"),
        "mamba": sg.mamba_pool(),
        "draft": sg.mha_pool("page_first"),
    }
    ranks = [
        sg.attach(
            sg.config_of(tmp_path, is_mla_model=True, tp_rank=r, tp_size=2), pools["kv"], pools
        )
        for r in range(2)
    ]
    transfers = [
        sg.PoolTransfer(
            name=sg.PoolName(name), keys=KEYS[:1], host_indices=sg.slots_of(pools[name], [1])
        )
        for name in pools
    ]
    every = {"kv": [True], "mamba": [True], "draft": [True]}
    assert ranks[0].batch_set_v2(transfers) == ranks[0].batch_get_v2(transfers) == every
    assert ranks[1].batch_get_v2(transfers) == {"kv": [True], "mamba": [False], "draft": [False]}
    assert ranks[1].batch_set_v2(transfers) == ranks[1].batch_get_v2(transfers) == every
    for backend in ranks:
        backend.close()


BASE = {"layout": "page_first", "num_heads": 8, "dtype": torch.bfloat16}
DIFFERENT = {
    "model": {"model_name": "another/model"},
    "own model": {"extra": {"model": "its-own-name"}},
    "revision": {"extra": {"revision": "r2"}},
    "rank": {"tp_rank": 1, "tp_size": 2},
    "size": {"tp_size": 2},
    "stage": {"pp_rank": 1, "pp_size": 2},
    "slice": {"attn_cp_rank": 1, "attn_cp_size": 2},
    "layout": {"pool": {"layout": "page_first_direct"}},
    "scattered": {"pool": {"layout": "layer_first"}},
    "heads": {"pool": {"num_heads": 4}},
    "rows": {"pool": {"num_heads": 4, "head_dim": 32}},
    "dtype": {"pool": {"dtype": torch.float16}},
}


@pytest.mark.parametrize("what", DIFFERENT)
def test_what_changes_the_bytes_is_a_miss(tmp_path: Path, what: str) -> None:
    pool = sg.mha_pool(**BASE)
    writer = sg.attach(sg.config_of(tmp_path), pool)
    assert all(writer.batch_set_v1(KEYS, sg.slots_of(pool, PAGES)))
    fields = dict(DIFFERENT[what])
    other = sg.mha_pool(**{**BASE, **fields.pop("pool", {})})
    reader = sg.attach(sg.config_of(tmp_path, **fields), other)
    assert reader.batch_exists(KEYS) == 0
    assert reader.batch_get_v1(KEYS, sg.slots_of(other, PAGES)) == [False] * len(KEYS)
    again = sg.attach(sg.config_of(tmp_path, dp_rank=3), sg.mha_pool(**BASE))
    assert again.batch_exists(KEYS) == len(KEYS)  # a data-parallel replica has the same pages
    for backend in (writer, reader, again):
        backend.close()


def test_a_state_belongs_to_pages_of_one_size(tmp_path: Path) -> None:
    """Its own pool has a slot per state, whatever the pages of tokens are."""
    found = []
    for page_size in (sg.PAGE_SIZE, 2 * sg.PAGE_SIZE):
        states = sg.mamba_pool()
        anchor = sg.LogicalHostPool(64, page_size)
        backend = sg.attach(sg.config_of(tmp_path), anchor, {"kv": anchor, "mamba": states})
        moved = sg.PoolTransfer(
            name=sg.PoolName.MAMBA, keys=KEYS[:1], host_indices=sg.slots_of(states, [1])
        )
        found.append(backend.batch_get_v2([moved])["mamba"])
        assert backend.batch_set_v2([moved]) == backend.batch_get_v2([moved]) == {"mamba": [True]}
        backend.close()
    assert found == [[False], [False]]


def test_raw_bytes_say_what_they_are(tmp_path: Path) -> None:
    """SGLang keeps e4m3 and e5m2 as uint8: without a word from the user they would mix."""
    pool = sg.mha_pool("page_first", dtype=torch.float8_e4m3fn)
    assert pool.dtype == torch.uint8
    with pytest.raises(StorageError, match="kv_cache_dtype"):
        sg.attach(sg.config_of(tmp_path), pool)
    found = {}
    for name in ("fp8_e4m3", "fp8_e5m2"):
        backend = sg.attach(sg.config_of(tmp_path, extra={"kv_cache_dtype": name}), pool)
        found[name] = backend.batch_exists(KEYS)
        assert all(backend.batch_set_v1(KEYS, sg.slots_of(pool, PAGES)))
        backend.close()
    assert found == {"fp8_e4m3": 0, "fp8_e5m2": 0}
