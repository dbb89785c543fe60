"""The radix tree: pure Python, no torch, no native code. RadixTree is the facade; one file per
operation.
"""

from hicache_ext.tree.components import Component, Full, Swa
from hicache_ext.tree.events import EventKind, PageEvent
from hicache_ext.tree.key import KeyUnit, pack_tokens
from hicache_ext.tree.radix import RadixTree
from hicache_ext.tree.results import (
    BackupPlan,
    EvictResult,
    InsertHostResult,
    InsertResult,
    LoadBackPlan,
    MatchResult,
    Receipt,
    Span,
    WindowResult,
)
from hicache_ext.tree.window import WindowTxn

__all__ = [
    "BackupPlan",
    "Component",
    "EventKind",
    "EvictResult",
    "Full",
    "InsertHostResult",
    "InsertResult",
    "KeyUnit",
    "LoadBackPlan",
    "MatchResult",
    "PageEvent",
    "RadixTree",
    "Receipt",
    "Span",
    "Swa",
    "WindowResult",
    "WindowTxn",
    "pack_tokens",
]
