"""Which store the setting "store" opens: {"kind": "local", "root": folder, ...options}."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from hicache_ext.errors import StorageError
from hicache_ext.storage import Durability, LocalStore, PageStore, RedisStore, StoreNamespace

# kind: its class, and what its first argument is called. The options are its keyword arguments.
_KINDS: dict[str, tuple[type, str]] = {
    "local": (LocalStore, "root"),
    "redis": (RedisStore, "server"),
}
_MADE_OF_TEXT = {"durability": Durability}


def open_store(
    setting: Mapping[str, Any],
    namespaces: Mapping[str, StoreNamespace],
    page_bytes: Mapping[str, int],
) -> PageStore:
    """StorageError for a kind, an option or a value that cannot be; and what the store raises."""
    options = dict(setting)
    kind = options.pop("kind", None)
    if kind not in _KINDS:
        raise StorageError(f"store: kind={kind!r} is none of {sorted(_KINDS)}")
    made, where_name = _KINDS[kind]
    where = options.pop(where_name, None)
    if not isinstance(where, str) or not where:
        raise StorageError(f"store {kind!r}: {where_name}={where!r} is no text")
    parameters = inspect.signature(made).parameters.values()
    known = {p.name for p in parameters if p.kind is p.KEYWORD_ONLY}
    if unknown := sorted(set(options) - known):
        raise StorageError(f"store {kind!r}: unknown key {unknown[0]!r}; known: {sorted(known)}")
    try:
        for name in options.keys() & _MADE_OF_TEXT.keys():
            options[name] = _MADE_OF_TEXT[name](options[name])
        store: PageStore = made(where, namespaces, page_bytes, **options)
    except (TypeError, ValueError) as error:
        raise StorageError(f"store {kind!r} with {options}: {error}") from error
    return store
