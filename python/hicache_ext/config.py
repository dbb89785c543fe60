"""The configuration of a HiCache; equal on every rank."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field, fields, is_dataclass
from enum import Enum
from math import inf
from typing import Any

from hicache_ext.checks import require_kind
from hicache_ext.errors import LayoutError
from hicache_ext.flow.backup_line import WritePolicy
from hicache_ext.flow.prefetch_rules import PrefetchRules
from hicache_ext.tree.components.base import Component
from hicache_ext.tree.components.full import Full
from hicache_ext.tree.components.mamba import Mamba
from hicache_ext.tree.components.swa import Swa
from hicache_ext.tree.key import KeyUnit
from hicache_ext.tree.strategy import Strategy


@dataclass(frozen=True)
class CacheConfig:
    """Checked when it is made; `window_tokens` None means a model with full attention only."""

    page_size: int
    window_tokens: int | None = None
    has_mamba: bool = False  # recurrent layers: a pool "mamba" with one state per page
    evict_strategy: str = Strategy.LRU.value  # what goes first, see tree/strategy.py
    key_unit: KeyUnit = KeyUnit.TOKEN  # BIGRAM: the KV of a position depends on the next token, too
    sidecars: Mapping[str, str] = field(default_factory=dict)
    """Pools without ids of their own, and whose pages they are a part of: {"indexer": "full"}."""
    prefetch: PrefetchRules = field(default_factory=PrefetchRules)
    write_policy: WritePolicy = WritePolicy.WRITE_THROUGH
    min_backup_hits: int = 2  # of a node, for SELECTIVE; the insert that made it is the first
    write_back_watermark: float = 0.125  # WRITE_BACK: of each device pool, to be free or backed up
    backup_batch_pages: int = 1024  # of a pool in one backup op, unless one insert has more
    max_store_writes: int = 16  # backups that write to L3 at once; further ones end at L2
    load_back_threshold_tokens: int = 0  # less on the host is computed anew rather than loaded
    num_slots: int = 64  # ops that can be in flight at once; more wait in line
    num_endpoint_lanes: int = 128  # endpoints that all ranks can compare in one tick
    tick_depth: int = 1  # steps from publish to apply; 0: the tick waits for the other ranks
    tick_deadline_s: float = 30.0  # a rank later than this is an AgreementError on the others

    def components(self) -> list[Component]:
        """One policy per cache kind, for a new tree."""
        windows = [] if self.window_tokens is None else [Swa(self.window_tokens)]
        return [Full(), *windows, *([Mamba()] if self.has_mamba else [])]

    def __post_init__(self) -> None:
        require_kind("key_unit", self.key_unit, KeyUnit)
        require_kind("write_policy", self.write_policy, WritePolicy)
        if self.page_size <= 0:
            raise LayoutError(f"page_size={self.page_size} must be positive")
        if self.window_tokens is not None and self.window_tokens <= 0:
            raise LayoutError(
                f"window_tokens={self.window_tokens} must be positive; None means no window"
            )
        Strategy.of(self.evict_strategy)
        if self.num_slots <= 0 or self.num_endpoint_lanes <= 0:
            raise LayoutError(
                f"num_slots={self.num_slots}, num_endpoint_lanes={self.num_endpoint_lanes} "
                "must be positive"
            )
        if self.tick_depth not in (0, 1):
            raise LayoutError(f"tick_depth={self.tick_depth} must be 0 or 1")
        if min(self.min_backup_hits, self.backup_batch_pages, self.max_store_writes) < 1:
            raise LayoutError(
                f"min_backup_hits={self.min_backup_hits}, "
                f"backup_batch_pages={self.backup_batch_pages}, "
                f"max_store_writes={self.max_store_writes} must be positive"
            )
        if not 0 <= self.write_back_watermark <= 1 or self.load_back_threshold_tokens < 0:
            raise LayoutError(
                f"write_back_watermark={self.write_back_watermark} must be in 0..1, "
                f"load_back_threshold_tokens={self.load_back_threshold_tokens} not negative"
            )
        if not 0 < self.tick_deadline_s < inf:
            raise LayoutError(f"tick_deadline_s={self.tick_deadline_s} must be positive and finite")

    def __str__(self) -> str:
        return in_words(self)


def in_words(config: Any) -> str:
    """The fields of a dataclass that differ from their defaults."""
    told = []
    for part in fields(config):
        value = getattr(config, part.name)
        default = part.default if part.default_factory is MISSING else part.default_factory()
        if value != default:
            told.append(f"{part.name}={_plain(value)}")
    return f"{type(config).__name__}({', '.join(told)})"


def _plain(value: Any) -> str:
    if isinstance(value, Enum):
        return str(value.value)
    return in_words(value) if is_dataclass(value) else repr(value)
