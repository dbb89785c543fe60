"""The radix tree: pure Python, no torch, no native code. RadixTree is the facade; one file per
operation.
"""

from hicache_ext.tree.components import Component, Full, Mamba, Swa
from hicache_ext.tree.events import EventKind, PageEvent
from hicache_ext.tree.key import KeyUnit, pack_tokens
from hicache_ext.tree.radix import RadixTree
from hicache_ext.tree.results import (
    BackupPlan,
    EvictResult,
    HostPaths,
    InsertHostResult,
    InsertResult,
    LoadBackPlan,
    MatchResult,
    PageCounts,
    Receipt,
    Span,
    WindowResult,
)
from hicache_ext.tree.strategy import Strategy
from hicache_ext.tree.window import WindowTxn

__all__ = [
    "BackupPlan",
    "Component",
    "EventKind",
    "EvictResult",
    "Full",
    "HostPaths",
    "InsertHostResult",
    "InsertResult",
    "KeyUnit",
    "LoadBackPlan",
    "Mamba",
    "MatchResult",
    "PageCounts",
    "PageEvent",
    "RadixTree",
    "Receipt",
    "Span",
    "Strategy",
    "Swa",
    "WindowResult",
    "WindowTxn",
    "pack_tokens",
]
