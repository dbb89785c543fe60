"""Under which names a host pool's pages are stored: which other ranks and runs may read them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from hicache_ext.errors import LayoutError, StorageError
from hicache_ext.storage import HeadShards, StoreNamespace
from hicache_ext.storage.head_shards import REPLICATED

from .config import PluginConfig

if TYPE_CHECKING:
    from sglang.srt.mem_cache.hicache_storage import HiCacheStorageConfig

# What a pool says of its rows, where it has it; all of it changes the bytes.
_DIMENSIONS = (
    "head_dim",
    "v_head_dim",
    "kv_cache_dim",
    "layer_num",
    "start_layer",
    "num_mamba_layers",
    "temporal_dtype",
    "storage_format_tag",
)
_ANCHOR = "kv"
_RAW = "uint8"  # of fp8 and packed formats SGLang's pools know only that they are bytes


@dataclass(frozen=True)
class PoolShares:
    """The shares of a pool's pages that this rank holds: names for StoreNamespace.shard.

    Ranks that hold the same bytes hold the same names, and one of them writes.
    """

    names: list[str]
    is_writer: bool = True


@dataclass(frozen=True)
class Naming:
    """One rank of one server: its settings and its place."""

    config: PluginConfig
    rank: HiCacheStorageConfig

    def shares(self, pool_name: str, pool: Any) -> PoolShares:
        """StorageError if the anchor's heads contradict num_kv_heads.

        Replicated KV (MLA) has one share, which SGLang lets one rank write. States, and draft
        models with heads of their own, belong to their rank even then.
        """
        rank, num_kv_heads = self.rank, self.config.num_kv_heads
        num_heads = getattr(pool, "head_num", None)
        if rank.is_mla_model and pool_name != "mamba" and num_heads is None:
            return PoolShares([REPLICATED])
        num_expected = max(1, num_kv_heads // rank.tp_size)
        if num_kv_heads and num_heads != num_expected:
            if pool_name == _ANCHOR:
                raise StorageError(
                    f"num_kv_heads={num_kv_heads}: {num_expected} on each of {rank.tp_size} ranks, "
                    f"but the pool {pool_name!r} has {num_heads}"
                )
            num_kv_heads = 0  # another attention, whose heads nobody told us
        num_groups = _num_groups(pool, rank)
        try:
            shards = HeadShards.of_rank(
                rank.tp_rank,
                rank.tp_size,
                num_shards=rank.tp_size * num_groups,
                num_kv_heads=num_kv_heads if num_heads is not None else 0,
            )
        except LayoutError as error:
            raise StorageError(f"pool {pool_name!r}: {error}") from error
        return PoolShares(shards.names, shards.is_writer)

    def namespace(
        self, pool_name: str, pool: Any, anchor_page_size: int, shard: str, piece: str
    ) -> StoreNamespace:
        """Of one object. `piece` says which part of the share it is, and how long."""
        rank = self.rank
        layout: dict[str, int | str] = {
            "engine": "sglang",
            "layout": pool.layout,
            "pool_class": type(pool).__name__,
            "num_slots": pool.page_size,
            "piece": piece,
        }
        for name in _DIMENSIONS:
            if (value := getattr(pool, name, None)) is not None:
                layout[name] = value if isinstance(value, int) else str(value)
        if rank.pp_size > 1:
            layout["pp"] = f"{rank.pp_rank}/{rank.pp_size}"
        if rank.attn_cp_size > 1:  # each holds a slice of every page
            layout["cp"] = f"{rank.attn_cp_rank}/{rank.attn_cp_size}"
        return StoreNamespace(
            model=self.config.model,
            revision=self.config.revision,
            dtype=self._dtype(pool_name, pool),
            layout=layout,
            page_size=anchor_page_size,
            shard=shard,
        )

    def _dtype(self, pool_name: str, pool: Any) -> str:
        dtype = str(pool.dtype).removeprefix("torch.")
        if dtype != _RAW:
            return dtype
        if pool_name == _ANCHOR and not self.config.kv_cache_dtype:
            raise StorageError(
                f"pool {pool_name!r} holds {_RAW}: set kv_cache_dtype in the extra config to what "
                f"--kv-cache-dtype came to, or fp8 formats would read each other's pages"
            )
        return f"{dtype}/{self.config.kv_cache_dtype}"


def _num_groups(pool: Any, rank: HiCacheStorageConfig) -> int:
    """Shares of one rank whose bytes lie together in a page."""
    if pool.layout == "page_unified":
        return int(getattr(pool, "head_group_num", 1))
    if pool.layout == "page_head" and rank.should_split_heads:
        return int(rank.tp_lcm_size // rank.tp_size)
    return 1
