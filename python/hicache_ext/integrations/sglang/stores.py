"""Which store the setting "store" opens: {"kind": "local", "root": folder, ...}.

Each kind is a function here; its keyword arguments are what the setting may contain.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from typing import Any

from hicache_ext.errors import StorageError
from hicache_ext.storage import (
    Durability,
    FallbackStore,
    MooncakeClient,
    MooncakeStore,
    ObjectStore,
    PageStore,
    RedisStore,
    SegmentStore,
    StoreNamespace,
    open_s3,
)

Namespaces = Mapping[str, StoreNamespace]
Sizes = Mapping[str, int]

_KINDS_THAT_HOLD_BUFFERS = {"mooncake"}


def holds_buffers(setting: Mapping[str, Any]) -> bool:
    """Whether an engine of this store may hold a buffer past a call's limit. SGLang reuses the
    pages of a miss at once, so such a store gets memory of ours, which waits for it."""
    parts = setting.get("stores")
    parts = [part for part in parts if isinstance(part, dict)] if isinstance(parts, list) else []
    return setting.get("kind") in _KINDS_THAT_HOLD_BUFFERS or any(map(holds_buffers, parts))


def _local(
    namespaces: Namespaces,
    sizes: Sizes,
    *,
    root: str,
    durability: str = "none",
    max_bytes: int | None = None,
) -> PageStore:
    mode = Durability(durability)
    return SegmentStore(root, namespaces, sizes, durability=mode, max_bytes=max_bytes)


def _redis(namespaces: Namespaces, sizes: Sizes, *, server: str, num_links: int = 4) -> PageStore:
    return RedisStore(server, namespaces, sizes, num_links=num_links)


def _s3(
    namespaces: Namespaces,
    sizes: Sizes,
    *,
    bucket: str,
    endpoint: str | None = None,
    access_key_id: str | None = None,
    secret_access_key: str | None = None,
    region: str = "us-east-1",
    prefix: str = "hicache",
) -> PageStore:
    objects = open_s3(
        bucket,
        endpoint=endpoint,
        access_key_id=access_key_id,
        secret_access_key=secret_access_key,
        region=region,
    )
    return ObjectStore(objects, namespaces, sizes, prefix=prefix)


def _mooncake(
    namespaces: Namespaces,
    sizes: Sizes,
    *,
    master: str,
    host: str = "127.0.0.1",
    protocol: str = "tcp",
    devices: str = "",
    num_replicas: int = 1,
) -> PageStore:
    client = MooncakeClient(master, host=host, protocol=protocol, devices=devices)
    try:
        return _MooncakeOfOurs(client, namespaces, sizes, num_replicas=num_replicas)
    except BaseException:
        client.close()
        raise


class _MooncakeOfOurs(MooncakeStore):
    def close(self) -> None:
        super().close()
        self._client.close()


def _fallback(namespaces: Namespaces, sizes: Sizes, *, stores: list[Any]) -> PageStore:
    if not isinstance(stores, list) or not all(isinstance(part, dict) for part in stores):
        raise StorageError(f"store 'fallback': stores={stores!r} is no list of stores")
    with ExitStack() as if_one_fails:
        opened = []
        for part in stores:
            opened.append(open_store(part, namespaces, sizes))
            if_one_fails.callback(opened[-1].close)
        made = FallbackStore(opened)
        if_one_fails.pop_all()  # they are closed with it
    return made


_KINDS: dict[str, Callable[..., PageStore]] = {
    "fallback": _fallback,
    "local": _local,
    "mooncake": _mooncake,
    "redis": _redis,
    "s3": _s3,
}


def open_store(setting: Mapping[str, Any], namespaces: Namespaces, sizes: Sizes) -> PageStore:
    """StorageError for a kind, a key or a value that cannot be; and what the store raises."""
    options = dict(setting)
    kind = options.pop("kind", None)
    if kind not in _KINDS:
        raise StorageError(f"store: kind={kind!r} is none of {sorted(_KINDS)}")
    parameters = inspect.signature(_KINDS[kind]).parameters.values()
    known = {p.name: p.default is p.empty for p in parameters if p.kind is p.KEYWORD_ONLY}
    if unknown := sorted(set(options) - set(known)):
        raise StorageError(f"store {kind!r}: unknown key {unknown[0]!r}; known: {sorted(known)}")
    if missing := [
        name for name, is_needed in known.items() if is_needed and not options.get(name)
    ]:
        raise StorageError(f"store {kind!r}: needs {missing[0]!r}")
    try:
        return _KINDS[kind](namespaces, sizes, **options)
    except (TypeError, ValueError) as error:
        raise StorageError(f"store {kind!r} with {sorted(options)}: {error}") from error
