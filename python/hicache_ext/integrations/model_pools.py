"""Pools, store and HiCache of the right shape for a model."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from hicache_ext.cache import HiCache
from hicache_ext.config import CacheConfig
from hicache_ext.flow.prefetch_rules import PrefetchPolicy, PrefetchRules
from hicache_ext.integrations.attention import AttentionPattern
from hicache_ext.layout import LayoutSpec
from hicache_ext.pool import DevicePool, HostPool
from hicache_ext.storage.namespace import StoreNamespace
from hicache_ext.storage.protocol import PageStore

_WAIT_COMPLETE = PrefetchRules(policy=PrefetchPolicy.WAIT_COMPLETE)


@dataclass(frozen=True)
class CacheShape:
    """What the caches of one model look like on every tier.

    num_pages: {"device": {pool: pages}, "host": {pool: pages}}.
    """

    pattern: AttentionPattern
    page_size: int
    num_pages: Mapping[str, Mapping[str, int]]
    dtype: torch.dtype = torch.float32

    def spec(self, pool: str, layout: str, num_pages: int) -> LayoutSpec:
        """The layout of one pool of `num_pages` pages."""
        return LayoutSpec.make(
            layout,
            num_pages=num_pages,
            page_size=self.page_size,
            num_layers=len(self.pattern.layers(pool)),
            num_heads=self.pattern.num_kv_heads,
            head_bytes=self.pattern.head_dim * self.dtype.itemsize,
        )

    def page_bytes(self) -> dict[str, int]:
        """Bytes of one page object, per pool."""
        return {name: self.spec(name, "page_unified", 1).page_bytes for name in self.pattern.pools}

    def namespaces(self, model: str, revision: str, shard: str) -> dict[str, StoreNamespace]:
        """The store namespaces of the pools: what would make a page another page."""
        return {
            name: StoreNamespace(
                model=model,
                revision=revision,
                dtype=str(self.dtype).removeprefix("torch."),
                layout=self.spec(name, "page_unified", 1).digest_fields(),
                page_size=self.page_size,
                shard=shard,
            )
            for name in self.pattern.pools
        }


@dataclass
class ModelCache:
    """A HiCache and the pools it works on, which are opened and closed with it."""

    shape: CacheShape
    cache: HiCache
    device: dict[str, DevicePool]
    host: dict[str, HostPool]
    store: PageStore | None = None
    _closed: bool = field(default=False, repr=False)

    @classmethod
    def open(
        cls,
        shape: CacheShape,
        *,
        store: PageStore | None = None,
        group: Any = None,
        prefetch: PrefetchRules = _WAIT_COMPLETE,
    ) -> "ModelCache":
        """Device pools in layer_first on the CPU, host pools in page_unified.

        The store is closed with the cache; a group is not, unless it is given as a kind.
        """
        device = {
            name: DevicePool(shape.spec(name, "layer_first", num_pages), name=name)
            for name, num_pages in shape.num_pages["device"].items()
        }
        host = {
            name: HostPool(shape.spec(name, "page_unified", num_pages), name=name)
            for name, num_pages in shape.num_pages["host"].items()
        }
        config = CacheConfig(
            shape.page_size, window_tokens=shape.pattern.window_tokens, prefetch=prefetch
        )
        cache = HiCache(config, device, host, store=store, group=group)
        return cls(shape, cache, device, host, store)

    def close(self) -> None:
        """Close the cache, then what it worked on."""
        if self._closed:
            return
        self._closed = True
        self.cache.close()
        if self.store is not None:
            self.store.close()
        for pool in (*self.device.values(), *self.host.values()):
            pool.close()

    def __enter__(self) -> "ModelCache":
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()


def num_pages_for(
    pattern: AttentionPattern, page_size: int, *, num_tokens: int, chunk_tokens: int, windows: int
) -> dict[str, dict[str, int]]:
    """Pages for one sequence of `num_tokens`, keeping `windows` windows besides the running one."""
    full = -(-num_tokens // page_size) + 1
    pages = {"device": {"full": full}, "host": {"full": full}}
    if pattern.window_tokens is not None:
        window = -(-pattern.window_tokens // page_size) + 1
        chunk = -(-chunk_tokens // page_size) + 1
        pages["device"]["swa"] = (windows + 1) * window + chunk
        pages["host"]["swa"] = (windows + 1) * window
    return pages


def model_revision(model: Any) -> str:
    """A digest of config and weights (names, shapes, first and last 4 KiB of each), 16 hex digits.

    Two models with equal digests would share pages, so it must see a fine-tune: every weight does.
    """
    digest = hashlib.sha256(model.config.to_json_string(use_diff=False).encode())
    for name, tensor in model.state_dict().items():
        flat = tensor.detach().reshape(-1)
        edge = 4096 // tensor.element_size()
        ends = torch.cat([flat[:edge], flat[-edge:]]).contiguous().view(torch.uint8)
        digest.update(f"{name}{tuple(tensor.shape)}".encode() + ends.cpu().numpy().tobytes())
    return digest.hexdigest()[:16]


def model_name(source: str) -> str:
    """What a store calls the model: a hub id as it is, a folder by its last part."""
    return Path(source).name if Path(source).is_dir() else source
