"""HICACHE_CHECK=full: every argument and result of every tree call is compared across ranks.

Without it, ranks compare the calls that change the tree by what decides, and the state of the tree
once in each tick. With it the log also has the calls that only read, which pages are holes, and the
digest of the tree after each call: a rank that goes wrong by itself is caught in the act. For
finding an error; it costs tens of microseconds for each call.
"""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Mapping
from dataclasses import fields, is_dataclass
from functools import cache, wraps
from types import MethodType
from typing import Any

from hicache_ext.errors import HiCacheError
from hicache_ext.keys import token_hash
from hicache_ext.oplog import OpKind
from hicache_ext.tier import Tier
from hicache_ext.tree.key import pack_tokens
from hicache_ext.tree.radix import RadixTree
from hicache_ext.tree.results import Receipt, TransferPlan

VARIABLE = "HICACHE_CHECK"
# Decides nothing, and one rank alone may call it.
_INSPECTION = {"owned_pages", "check_integrity", "show", "pack", "take_events", "event_snapshot"}


def obey_check_variable(tree: RadixTree) -> str:
    """Logs each call of `tree` in full from now on if HICACHE_CHECK is "full"; returns its value.

    HiCacheError for one that is neither that nor empty.
    """
    value = os.environ.get(VARIABLE, "")
    if value not in ("", "full"):
        raise HiCacheError(f"{VARIABLE}={value!r}: it can be empty or 'full'")
    for name, method in vars(RadixTree).items() if value else ():
        if inspect.isfunction(method) and not name.startswith("_") and name not in _INSPECTION:
            setattr(tree, name, _logged(getattr(tree, name), tree))
    return value


def _logged(method: MethodType, tree: RadixTree) -> Callable[..., Any]:
    defaults = _parameters(method.__func__)

    @wraps(method)
    def call(*args: Any, **kwargs: Any) -> Any:
        result = method(*args, **kwargs)
        bound = defaults | dict(zip(defaults, args, strict=False)) | kwargs
        given = ", ".join(f"{n}={_argument(n, value)}" for n, value in bound.items())
        text = f"tree.{method.__name__}({given}) = {_plain(result)}"
        tree.log.add(OpKind.literal(f"{text}, then digest {tree.digest:x}"))
        return result

    return call


@cache
def _parameters(function: Callable[..., Any]) -> dict[str, Any]:
    """By name, in order and without self: the value that an argument has if none is given."""
    parameters = list(inspect.signature(function).parameters.values())[1:]
    return {parameter.name: parameter.default for parameter in parameters}


def _argument(name: str, value: Any) -> str:
    return _plain(pack_tokens(value) if name == "tokens" else value)


def _plain(value: Any) -> str:
    """What must be the same on every rank, short, without tokens and without page ids."""
    if value is None or isinstance(value, (bool, int, str)):
        return value.name if isinstance(value, Tier) else f"{value}"
    if isinstance(value, bytes):
        return f"{len(value)} bytes (hash {token_hash(value):x})"
    if isinstance(value, (Receipt, TransferPlan)):
        return f"{type(value).__name__} {value.id} of node {value.node}"
    if is_dataclass(value):
        return _plain({field.name: getattr(value, field.name) for field in fields(value)})
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{name}: {_plain(item)}" for name, item in value.items()) + "}"
    if hasattr(value, "__len__"):
        return _list(list(value))
    return type(value).__name__


def _list(items: list[Any]) -> str:
    """Page keys by their hash; of page ids, how many and where there is none."""
    if items and isinstance(items[0], bytes):
        return f"{len(items)} keys (hash {token_hash(b''.join(items)):x})"
    holes = bytes(int(item) < 0 for item in items)
    return f"{len(items)} pages" + (f" (holes {token_hash(holes):x})" if any(holes) else "")
