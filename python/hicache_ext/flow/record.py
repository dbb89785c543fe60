"""How an op ended: one record each, with a reason for every loss."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum


class Outcome(Enum):
    """The end of an op."""

    COMMITTED = "committed"
    MISS = "miss"  # the ranks agreed on a hit of zero
    BELOW_THRESHOLD = "below_threshold"
    CAPACITY = "capacity"  # some rank had no pages, also after one eviction
    DROPPED = "dropped"  # read, but the tree could not take it
    ABORTED = "aborted"
    FAILED = "failed"  # a copy failed on some rank, or it had no store to attach


@dataclass
class PrefetchRecord:
    """What became of one prefetch, in tokens of the sequence. Equal on every rank."""

    op_id: int
    num_matched_tokens: int  # where the span begins: what L2 had already
    num_span_tokens: int  # asked of L3
    num_hit_tokens: int = 0  # the endpoint that all ranks can restore
    num_loaded_tokens: int = 0  # read by all ranks
    num_committed_tokens: int = 0  # new in the tree (loaded less already present)
    num_window_pages: dict[str, int] = field(default_factory=dict)  # asked, per window pool
    num_attached_pages: dict[str, int] = field(default_factory=dict)  # of these, taken by the tree
    outcome: Outcome | None = None
    losses: list[str] = field(default_factory=list)
    num_read_bytes: int = 0  # of this rank
    local_errors: list[str] = field(default_factory=list)  # of this rank alone


@dataclass
class TransferRecord:
    """What became of one copy between device and host."""

    op_id: int
    num_pages: dict[str, int]
    outcome: Outcome | None = None
    num_copied_bytes: int = 0
    local_errors: list[str] = field(default_factory=list)  # of this rank alone


@dataclass
class LoadBackRecord(TransferRecord):
    """Host to device."""


@dataclass
class BackupRecord(TransferRecord):
    """Device to host, then host to store."""

    num_requests: int = 0  # inserts, or victims of write-back, that went together
    num_stored_pages: dict[str, int] = field(default_factory=dict)  # of this rank
    num_stored_bytes: int = 0  # of this rank


class StoreAction(Enum):
    """What happens to L3."""

    ATTACH = "attach_store"
    DETACH = "detach_store"


@dataclass
class StoreRecord:
    """What became of an attach or detach of the store. Equal on every rank."""

    op_id: int
    action: StoreAction
    outcome: Outcome | None = None


Record = PrefetchRecord | TransferRecord | StoreRecord
