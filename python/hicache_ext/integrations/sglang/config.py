"""The plug-in's own keys in --hicache-storage-backend-extra-config."""

from __future__ import annotations

import math
import numbers
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from hicache_ext.errors import StorageError

# Keys that SGLang or its loader of plug-ins reads and leaves in the mapping.
_OF_SGLANG = {"backend_name", "module_path", "class_name", "interface_v1", "allocator"}
_OWN = {"root", "store", "model", "revision", "kv_cache_dtype", "num_kv_heads", "timeout_s"}


@dataclass(frozen=True)
class PluginConfig:
    """What the user set, checked.

    store: {"kind": ..., ...} for stores.open_store. model, revision: the weights whose pages these
    are. kv_cache_dtype: what raw bytes in the pools mean ("" if the pools say it by themselves).
    num_kv_heads: of the whole model, 0 if not known. timeout_s: of one call to the store.
    """

    store: Mapping[str, Any]
    model: str
    revision: str = ""
    kv_cache_dtype: str = ""
    num_kv_heads: int = 0
    timeout_s: float = 10.0

    @classmethod
    def of(cls, extra_config: Mapping[str, Any] | None, model_name: str | None) -> PluginConfig:
        """StorageError for a key that nobody knows or a value that cannot be."""
        extra = dict(extra_config or {})
        if unknown := sorted(set(extra) - _OWN - _OF_SGLANG):
            raise StorageError(f"extra config: unknown key {unknown[0]!r}; known: {sorted(_OWN)}")
        if ("root" in extra) == ("store" in extra):
            raise StorageError('extra config: needs "root", a folder, or "store", and not both')
        store = extra.get("store", {"kind": "local", "root": extra.get("root")})
        if not isinstance(store, dict):
            raise StorageError(f"extra config: store={store!r} is no object")
        config = cls(
            store=store,
            model=_text(extra, "model", model_name or ""),
            revision=_text(extra, "revision", ""),
            kv_cache_dtype=_text(extra, "kv_cache_dtype", ""),
            num_kv_heads=_count(extra, "num_kv_heads"),
            timeout_s=_seconds(extra, "timeout_s", cls.timeout_s),
        )
        if not config.model:
            raise StorageError('extra config: SGLang has no name for this model: set "model"')
        return config


def _text(extra: Mapping[str, Any], key: str, default: str) -> str:
    value = extra.get(key, default)
    if not isinstance(value, str):
        raise StorageError(f"extra config: {key}={value!r} is no text")
    return value


def _count(extra: Mapping[str, Any], key: str) -> int:
    value = extra.get(key, 0)
    if not isinstance(value, numbers.Integral) or isinstance(value, bool) or value < 0:
        raise StorageError(f"extra config: {key}={value!r} is no count")
    return int(value)


def _seconds(extra: Mapping[str, Any], key: str, default: float) -> float:
    value = extra.get(key, default)
    is_number = isinstance(value, numbers.Real) and not isinstance(value, bool)
    if not is_number or not 0 < value < math.inf:
        raise StorageError(f"extra config: {key}={value!r} is no time above 0")
    return float(value)
