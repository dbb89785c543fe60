"""hicache_ext: the memory hierarchy of an LLM server as a library.

The names below are imported on first use: `hicache_ext.tree` needs neither torch nor the native
module, and a store needs no model.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hicache_ext.agreement import LocalGroup, ShmGroup, TorchGroup, make_group
    from hicache_ext.cache import HiCache
    from hicache_ext.config import CacheConfig
    from hicache_ext.copy import (
        LayoutSpec,
        PagedBuffer,
        copy_pages,
        gather_pages,
        make_plan,
        page_ids_of_tokens,
        scatter_pages,
    )
    from hicache_ext.flow.backup_line import WritePolicy
    from hicache_ext.host_buffer import HostBuffer
    from hicache_ext.match import Match
    from hicache_ext.namespace import Namespace
    from hicache_ext.pool import DevicePool, HostPool
    from hicache_ext.staging import Slots, gather_slots, scatter_slots
    from hicache_ext.storage import MemoryStore, SegmentStore
    from hicache_ext.tier import Tier
    from hicache_ext.tree import KeyUnit, RadixTree

__all__ = [
    "CacheConfig",
    "DevicePool",
    "HiCache",
    "HostBuffer",
    "HostPool",
    "KeyUnit",
    "LayoutSpec",
    "LocalGroup",
    "Match",
    "MemoryStore",
    "Namespace",
    "PagedBuffer",
    "RadixTree",
    "SegmentStore",
    "ShmGroup",
    "Slots",
    "Tier",
    "TorchGroup",
    "WritePolicy",
    "copy_pages",
    "gather_pages",
    "gather_slots",
    "make_group",
    "make_plan",
    "page_ids_of_tokens",
    "scatter_pages",
    "scatter_slots",
]

_HOMES = {
    "agreement": ("LocalGroup", "ShmGroup", "TorchGroup", "make_group"),
    "cache": ("HiCache",),
    "config": ("CacheConfig",),
    "copy": (
        "LayoutSpec",
        "PagedBuffer",
        "copy_pages",
        "gather_pages",
        "make_plan",
        "page_ids_of_tokens",
        "scatter_pages",
    ),
    "flow.backup_line": ("WritePolicy",),
    "host_buffer": ("HostBuffer",),
    "match": ("Match",),
    "namespace": ("Namespace",),
    "pool": ("DevicePool", "HostPool"),
    "staging": ("Slots", "gather_slots", "scatter_slots"),
    "storage": ("SegmentStore", "MemoryStore"),
    "tier": ("Tier",),
    "tree": ("KeyUnit", "RadixTree"),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> Any:
    home = _HOME_OF.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{home}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
