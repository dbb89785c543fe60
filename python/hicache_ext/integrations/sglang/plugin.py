"""HiCacheExtStorage: what SGLang calls, in terms of page stores. Decides nothing about caching."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from sglang.srt.mem_cache.hicache_storage import (
    HiCacheStorage,
    HiCacheStorageConfig,
    HiCacheStorageExtraInfo,
    PoolHitPolicy,
    PoolTransfer,
    PoolTransferResult,
)

from hicache_ext.errors import StorageError, StoreTimeout
from hicache_ext.keys import KEY_BYTES
from hicache_ext.storage import Limit, restorable_endpoints

from .config import PluginConfig
from .metrics import Metrics, Moved
from .naming import Naming
from .pools import ANCHOR, HostPools

_Result = TypeVar("_Result")


class HiCacheExtStorage(HiCacheStorage):
    """One per rank. SGLang's threads call it at the same time: a query, a read, a write, the stats.

    Every error of a store in a call is a miss or a write that failed, counted and logged; no call
    takes longer than `timeout_s`. Errors in the settings, or a pool that cannot be stored, raise
    while SGLang attaches. The class has the methods of SGLang's; what is said here is what differs.
    """

    def __init__(self, storage_config: HiCacheStorageConfig, kwargs: Mapping[str, Any]) -> None:
        """What SGLang's loader of dynamic backends passes; `kwargs` is empty today.

        StorageError for settings that cannot be: docs/sglang.md has the table.
        """
        if storage_config.dcp_size > 1:
            raise StorageError(f"dcp_size={storage_config.dcp_size}: not supported")
        self._config = PluginConfig.of(storage_config.extra_config, storage_config.model_name)
        self._pools = HostPools(Naming(self._config, storage_config))
        self._metrics = Metrics()
        self._exports_metrics = storage_config.enable_storage_metrics

    def register_mem_pool_host(self, mem_pool_host: Any) -> None:
        """The anchor, "kv": the pool that SGLang counts pages by."""
        super().register_mem_pool_host(mem_pool_host)
        self._pools.register(ANCHOR, mem_pool_host)

    def register_mem_host_pool_v2(self, host_pool: Any, host_pool_name: str) -> None:
        """After on_host_pools_registered() (the pool of a draft model) it opens a store at once."""
        super().register_mem_host_pool_v2(host_pool, host_pool_name)
        self._pools.register(_name_of(host_pool_name), host_pool)

    def on_host_pools_registered(self) -> None:
        """Opens the store; StorageError where a pool or the store cannot be had."""
        self._pools.open()

    def exists(self, key: str) -> bool:
        return self.batch_exists([key]) == 1

    def batch_exists(
        self, keys: list[str], extra_info: HiCacheStorageExtraInfo | None = None
    ) -> int:
        return self._guarded("batch_exists", 0, lambda limit: self._num_leading(keys, limit))

    def batch_exists_v2(
        self,
        keys: list[str],
        pool_transfers: list[PoolTransfer] | None = None,
        extra_info: HiCacheStorageExtraInfo | None = None,
    ) -> PoolTransferResult:
        """All page counts that can be restored here; SGLang intersects those of all ranks."""
        return self._guarded(
            "batch_exists_v2",
            PoolTransferResult(0, {}, []),
            lambda limit: self._query(keys, pool_transfers or [], limit),
        )

    def get(
        self, key: str, target_location: Any | None = None, target_sizes: Any | None = None
    ) -> Any | None:
        return self.batch_get([key], [target_location])[0]

    def batch_get(
        self,
        keys: list[str],
        target_locations: Any | None = None,
        target_sizes: Any | None = None,
    ) -> list[Any | None]:
        """The targets, flat pages, which are filled; None for each that was not found."""
        targets = list(target_locations or [])
        if self._pools.is_logical(ANCHOR):
            return targets
        found = self._moved(
            Moved.READ,
            ANCHOR,
            keys,
            lambda names, limit: self._pools.read_flat(names, targets, limit),
        )
        return [targets[i] if is_found else None for i, is_found in enumerate(found)]

    def set(
        self,
        key: str,
        value: Any | None = None,
        target_location: Any | None = None,
        target_sizes: Any | None = None,
    ) -> bool:
        return self.batch_set([key], [value])

    def batch_set(
        self,
        keys: list[str],
        values: Any | None = None,
        target_locations: Any | None = None,
        target_sizes: Any | None = None,
    ) -> bool:
        """Whether all `values`, flat pages, are stored; also where another rank stores them."""
        if self._pools.is_written_elsewhere(ANCHOR):
            return True
        pages = list(values or [])
        return all(
            self._moved(
                Moved.WRITTEN,
                ANCHOR,
                keys,
                lambda names, limit: self._pools.write_flat(names, pages, limit),
            )
        )

    def batch_get_v1(
        self,
        keys: list[str],
        host_indices: Any,
        extra_info: HiCacheStorageExtraInfo | None = None,
    ) -> list[bool]:
        return self._read(ANCHOR, keys, host_indices)

    def batch_set_v1(
        self,
        keys: list[str],
        host_indices: Any,
        extra_info: HiCacheStorageExtraInfo | None = None,
    ) -> list[bool]:
        return self._write(ANCHOR, keys, host_indices)

    def batch_get_v2(
        self,
        transfers: list[PoolTransfer],
        extra_info: HiCacheStorageExtraInfo | None = None,
    ) -> dict[str, list[bool]]:
        return {t.name: self._read(t.name, t.keys or [], t.host_indices) for t in transfers}

    def batch_set_v2(
        self,
        transfers: list[PoolTransfer],
        extra_info: HiCacheStorageExtraInfo | None = None,
    ) -> dict[str, list[bool]]:
        return {t.name: self._write(t.name, t.keys or [], t.host_indices) for t in transfers}

    def clear(self) -> bool:
        """Forgets all pages of this model in this form; False, and logged, where a store fails."""

        def clear(limit: Limit) -> bool:
            self._pools.clear()
            return True

        return self._guarded("clear", False, clear)

    def get_stats(self) -> Any | None:
        """sglang's StorageMetrics since the last call; None if the server exports no metrics."""
        if not self._exports_metrics:
            return None
        from sglang.srt.observability.metrics_collector import StorageMetrics

        return StorageMetrics(**self._metrics.collect())

    def stats(self) -> dict[str, int]:
        """PageStore.stats() of what is stored, in pieces, and num_failed_calls."""
        return {**self._pools.stats(), "num_failed_calls": self._metrics.num_failed_calls}

    def close(self) -> None:
        self._pools.close()

    def _num_leading(self, keys: list[str], limit: Limit) -> int:
        present = self._pools.exists(ANCHOR, _key_bytes(keys), limit)
        return present.index(False) if False in present else len(present)

    def _query(
        self, keys: list[str], transfers: Sequence[PoolTransfer], limit: Limit
    ) -> PoolTransferResult:
        is_logical = self._pools.is_logical(ANCHOR)  # then the other pools decide
        num_kv = len(keys) if is_logical else self._num_leading(keys, limit)
        names, has_kv = _key_bytes(keys[:num_kv]), [True] * num_kv
        hits = {ANCHOR: num_kv} if num_kv else {}
        windows: dict[str, tuple[list[bool], int]] = {}
        for transfer in transfers:
            if transfer.hit_policy == PoolHitPolicy.BLOCK_GROUPS:
                continue  # it never gates, and without an entry it has no verdict
            name = _name_of(transfer.name)
            # The keys of a trailing pool are placeholders: only their number counts.
            is_trailing = transfer.hit_policy == PoolHitPolicy.TRAILING_PAGES
            num_needed = max(1, len(transfer.keys or [])) if is_trailing else num_kv
            windows[name] = (self._pools.exists(name, names, limit), num_needed)
            if own := restorable_endpoints(has_kv, {name: windows[name]}, has_head=True):
                hits[name] = own[-1]
        endpoints = restorable_endpoints(has_kv, windows, has_head=True)
        return PoolTransferResult(endpoints[-1] if endpoints else 0, hits, endpoints)

    def _read(self, pool_name: str, keys: list[str], host_indices: Any) -> list[bool]:
        name = _name_of(pool_name)
        if self._pools.is_logical(name):
            return [True] * len(keys)
        return self._moved(
            Moved.READ,
            name,
            keys,
            lambda names, limit: self._pools.read(name, names, host_indices, limit),
        )

    def _write(self, pool_name: str, keys: list[str], host_indices: Any) -> list[bool]:
        name = _name_of(pool_name)
        if self._pools.is_written_elsewhere(name):
            return [True] * len(keys)
        return self._moved(
            Moved.WRITTEN,
            name,
            keys,
            lambda names, limit: self._pools.write(name, names, host_indices, limit),
        )

    def _moved(
        self,
        what: Moved,
        pool_name: str,
        keys: list[str],
        call: Callable[[list[bytes], Limit], list[bool]],
    ) -> list[bool]:
        """The result of `call`, measured; all False where it fails."""
        start_s = time.perf_counter()
        moved = self._guarded(
            f"a page of {pool_name!r} {what.value}",
            [False] * len(keys),
            lambda limit: call(_key_bytes(keys), limit),
        )
        duration_s = time.perf_counter() - start_s
        num_bytes = sum(moved) * self._pools.page_bytes(pool_name)
        self._metrics.moved(what, sum(moved), num_bytes, duration_s)
        return moved

    def _guarded(self, what: str, miss: _Result, call: Callable[[Limit], _Result]) -> _Result:
        """SGLang recomputes what is a miss; an error would end its thread's batch.

        It reuses the pages of a miss, so where an engine holds on to them past the limit the call
        waits for it.
        """
        try:
            return call(Limit(self._config.timeout_s))
        except StoreTimeout as error:
            self._metrics.failed(what, error)
            error.wait()
            return miss
        except Exception as error:
            self._metrics.failed(what, error)
            return miss


def _name_of(pool_name: str) -> str:
    """PoolName is a str with another text."""
    return str(getattr(pool_name, "value", pool_name))


def _key_bytes(keys: Sequence[str]) -> list[bytes]:
    """SGLang's page hashes are SHA-256 in hex; any other text is hashed here."""
    return [_one_key(key) for key in keys]


def _one_key(key: str) -> bytes:
    try:
        name = bytes.fromhex(key)
    except ValueError:
        name = b""
    return name if len(name) == KEY_BYTES else hashlib.sha256(key.encode()).digest()
