"""SGLang's own host pools and controllers on the CPU, and the plug-in made by its own factory."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import sglang_standins
import torch

if why := sglang_standins.why_missing():
    pytest.skip(why, allow_module_level=True)

with sglang_standins.installed():
    import sglang.srt.mem_cache.deepseek_v4_memory_pool  # noqa: F401  # the controllers do, later
    from sglang.srt.managers.cache_controller import HiCacheController
    from sglang.srt.mem_cache.base_prefix_cache import CacheRequestHandle
    from sglang.srt.mem_cache.device_pool_info import MambaStateBufferInfo
    from sglang.srt.mem_cache.hicache_storage import (
        HiCacheFile,
        HiCacheStorageConfig,
        HiCacheStorageFailureInjector,
        PoolHitPolicy,
        PoolName,
        PoolTransfer,
    )
    from sglang.srt.mem_cache.hybrid_cache.hybrid_cache_controller import HybridCacheController
    from sglang.srt.mem_cache.memory_pool import (
        DSATokenToKVPool,
        MHATokenToKVPool,
        MLATokenToKVPool,
    )
    from sglang.srt.mem_cache.memory_pool_host import DeepSeekV4PagedHostPool, LogicalHostPool
    from sglang.srt.mem_cache.pool_host.base import host_memory_budget_scope
    from sglang.srt.mem_cache.pool_host.dsa import DSAIndexerPoolHost
    from sglang.srt.mem_cache.pool_host.group import HostPoolGroup, PoolEntry
    from sglang.srt.mem_cache.pool_host.mamba import MambaPoolHost
    from sglang.srt.mem_cache.pool_host.mha import get_mha_host_pool_cls
    from sglang.srt.mem_cache.pool_host.mla import MLATokenToKVPoolHost
    from sglang.srt.mem_cache.storage import StorageBackendFactory
    from sglang.srt.mem_cache.utils import get_hash_str
    from sglang.srt.observability.metrics_collector import StorageMetrics
    from sglang.srt.runtime_context import get_parallel

__all__ = [
    "CacheRequestHandle",
    "HiCacheController",
    "HiCacheFile",
    "HiCacheStorageConfig",
    "HiCacheStorageFailureInjector",
    "HybridCacheController",
    "LogicalHostPool",
    "PoolHitPolicy",
    "PoolName",
    "PoolTransfer",
    "StorageMetrics",
]

PAGE_SIZE = 4
NUM_SLOTS = 96  # of a device pool; its host pool has twice as many and a page
MHA_LAYOUTS = ("layer_first", "page_first", "page_first_direct", "page_head", "page_unified")
MLA_LAYOUTS = ("layer_first", "page_first", "page_first_direct")
PLUGIN = {
    "backend_name": "hicache_ext",
    "module_path": "hicache_ext.integrations.sglang",
    "class_name": "HiCacheExtStorage",
}


def mha_pool(
    layout: str,
    *,
    num_heads: int = 8,
    head_dim: int = 16,
    v_head_dim: int | None = None,
    dtype: torch.dtype = torch.bfloat16,
    num_slots: int = NUM_SLOTS,
    **more: Any,
) -> Any:
    """Three layers; the rows of a head are 16 bytes at least, as page_unified wants them."""
    device = MHATokenToKVPool(
        num_slots, PAGE_SIZE, dtype, num_heads, head_dim, 3, "cpu", False, v_head_dim=v_head_dim
    )
    info = device.get_device_pool_infos()[0].buffer_info
    with host_memory_budget_scope(1 << 30):
        return get_mha_host_pool_cls(info)(
            info, 2.0, 0, PAGE_SIZE, layout, pin_memory=False,
            device_capacity_tokens=device.size, start_layer=0, end_layer=3, **more,
        )  # fmt: skip


def mla_pool(layout: str, num_slots: int = NUM_SLOTS) -> Any:
    device = MLATokenToKVPool(num_slots, PAGE_SIZE, torch.bfloat16, 32, 8, 3, "cpu", False)
    info = device.get_device_pool_infos()[0].buffer_info
    with host_memory_budget_scope(1 << 30):
        return MLATokenToKVPoolHost(
            info, 2.0, 0, PAGE_SIZE, layout, pin_memory=False, device_capacity_tokens=device.size,
            start_layer=0, end_layer=3, target_layer_num=3,
        )  # fmt: skip


def mamba_pool(num_side_states: int = 0) -> Any:
    sides = tuple(torch.zeros(8, 9) for _ in range(num_side_states))
    info = MambaStateBufferInfo(
        temporal=torch.zeros(2, 8, 3, 5),
        conv=tuple(torch.zeros(2, 8, width, dtype=torch.bfloat16) for width in (7, 4)),
        extra_checkpoint_buffers=sides,
    )
    with host_memory_budget_scope(1 << 30):
        return MambaPoolHost(info, 4.0, 0, device_capacity=8, pin_memory=False, layout="page_first")


def paged_pool(layout: str) -> Any:
    """Packed bytes in three layers, as DeepSeek V4 has them beside an anchor without memory."""
    with host_memory_budget_scope(1 << 30):
        return DeepSeekV4PagedHostPool(
            "c4", [torch.zeros(8, 24, dtype=torch.uint8)] * 3, 24, 20, PAGE_SIZE, layout,
            pin_memory=False,
        )  # fmt: skip


def indexer_pools(layout: str) -> dict[str, Any]:
    """MLA with the keys of a sparse indexer beside it, which have no attribute kv_buffer."""
    size = 64  # of a page: what DSA has
    with get_parallel().override(attn_dcp_size=1), host_memory_budget_scope(1 << 30):
        device = DSATokenToKVPool(
            size=size, page_size=size, dtype=torch.bfloat16, kv_lora_rank=32, qk_rope_head_dim=8,
            layer_num=2, device="cpu", enable_memory_saver=False, index_head_dim=128,
            kv_cache_dim=40,
        )  # fmt: skip
        anchor = MLATokenToKVPoolHost(
            device.get_device_pool_infos()[0].buffer_info, 12.0, 0, size, layout,
            pin_memory=False, device_capacity_tokens=size, start_layer=0, end_layer=2,
            target_layer_num=2,
        )  # fmt: skip
        (decl,) = [d for d in device.host_pool_decls() if d.pool_name == PoolName.INDEXER]
        return {"kv": anchor, "indexer": DSAIndexerPoolHost(decl, anchor, pin_memory=False)}


def config_of(root: Path, **fields: Any) -> HiCacheStorageConfig:
    """As HiCacheController makes it; `extra` are the user's own keys."""
    extra = {**PLUGIN, "root": str(root), **fields.pop("extra", {})}
    values = dict(
        tp_rank=0, tp_size=1, pp_rank=0, pp_size=1, attn_cp_rank=0, attn_cp_size=1,
        is_mla_model=False, enable_storage_metrics=False, is_page_first_layout=False,
        model_name="meta-llama/Llama-3.1-8B", extra_config=extra,
    )  # fmt: skip
    return HiCacheStorageConfig(**{**values, **fields})


def attach(config: HiCacheStorageConfig, pool: Any, others: dict[str, Any] | None = None) -> Any:
    """What SGLang does at start-up, up to the threads."""
    backend = StorageBackendFactory.create_backend("dynamic", config, pool)
    backend.register_mem_pool_host(pool)
    for name, other in (others or {}).items():
        backend.register_mem_host_pool_v2(other, PoolName(name))
    backend.on_host_pools_registered()
    return backend


def page_hashes(num_pages: int, first_token: int = 0) -> list[str]:
    tokens = list(range(first_token, first_token + num_pages * PAGE_SIZE))
    hashes: list[str] = get_hash_str(tokens, page_size=PAGE_SIZE)
    return hashes


def buffers_of(pool: Any) -> list[torch.Tensor]:
    """All memory of a pool, as bytes."""
    held = pool.kv_buffer if hasattr(pool, "kv_buffer") else pool.index_k_with_scale_buffer
    tensors = list(held) if isinstance(held, list | tuple) else [held]
    flat: list[torch.Tensor] = []
    for tensor in tensors:
        flat += [t for t in tensor] if isinstance(tensor, list | tuple) else [tensor]
    return [t.reshape(-1).view(torch.uint8) for t in flat]


def fill(pool: Any, seed: int) -> None:
    """Random bytes everywhere."""
    generator = torch.Generator().manual_seed(seed)
    for bytes_ in buffers_of(pool):
        bytes_.copy_(torch.randint(0, 256, bytes_.shape, dtype=torch.uint8, generator=generator))


def contents(pool: Any) -> list[torch.Tensor]:
    return [bytes_.clone() for bytes_ in buffers_of(pool)]


def slots_of(pool: Any, pages: list[int]) -> torch.Tensor:
    """host_indices of these pages of a pool."""
    size = pool.page_size
    return torch.tensor([p * size + i for p in pages for i in range(size)], dtype=torch.int64)


def page_bytes(pool: Any, page: int) -> bytes:
    """The page as SGLang itself would flatten it, or K and V where it cannot."""
    slot = page * pool.page_size
    if isinstance(getattr(pool, "kv_buffer", None), tuple):  # K and V of different widths
        parts = [buffer.reshape(pool.page_num, -1)[page] for buffer in pool.kv_buffer]
        return b"".join(bytes(part.view(torch.uint8).numpy()) for part in parts)
    if pool.layout == "page_unified":
        return bytes(pool.kv_buffer[page].reshape(-1).view(torch.uint8).numpy())
    return bytes(pool.get_data_page(slot, flat=True).contiguous().view(torch.uint8).numpy())


@contextmanager
def controller(
    pools: dict[str, Any],
    extra: dict[str, Any],
    *,
    rank: int = 0,
    num_ranks: int = 1,
    is_mla_model: bool = False,
    group: Any = None,
    **options: Any,
) -> Iterator[Any]:
    """SGLang's controller of these host pools with its storage threads; the plain one for "kv"
    alone. Its device pool is small and only says which model this is: nothing moves to it.

    `group`: the process group of the ranks, over which they agree; None for one rank.
    `extra`: what follows --hicache-storage-backend-extra-config, and goes through its parser.
    """
    kind = MLATokenToKVPool if is_mla_model else MHATokenToKVPool
    device = kind(PAGE_SIZE, PAGE_SIZE, torch.bfloat16, 32, 8, 3, "cpu", False)
    allocator = SimpleNamespace(get_kvcache=lambda: device)
    settings, threshold, *_ = HybridCacheController.parse_storage_backend_extra_config(
        json.dumps({**PLUGIN, **extra})
    )
    of_rank = dict(tp_rank=rank, tp_size=num_ranks, pp_rank=0, pp_size=1)
    with get_parallel().override(attn_dcp_size=1, attn_dcp_rank=0, **of_rank):
        attach_options: dict[str, Any] = {}
        if len(pools) == 1:
            made = HiCacheController(allocator, pools["kv"], PAGE_SIZE, group, None, **options)
        else:
            entries = [
                PoolEntry(PoolName(name), pool, None, lambda layer: layer, name == "kv")
                for name, pool in pools.items()
            ]
            whole = HostPoolGroup(entries)
            made = HybridCacheController(allocator, whole, PAGE_SIZE, group, None, **options)
            attach_options["host_pools"] = entries
        made.attach_storage_backend("dynamic", threshold, "test/model", settings, **attach_options)
        try:
            yield made
        finally:
            made.detach_storage_backend()


def same_bytes(a: torch.Tensor, b: torch.Tensor) -> bool:
    """NaNs too are equal to themselves."""
    return torch.equal(a.reshape(-1).view(torch.uint8), b.reshape(-1).view(torch.uint8))
