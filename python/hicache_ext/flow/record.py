"""How an op ended: one record each, with a reason for every loss."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import NamedTuple


class Outcome(Enum):
    """The end of an op."""

    COMMITTED = "committed"
    MISS = "miss"  # the ranks agreed on a hit of zero
    BELOW_THRESHOLD = "below_threshold"
    CAPACITY = "capacity"  # some rank had no pages, also after one eviction
    DROPPED = "dropped"  # read, but the tree could not take it
    EXPIRED = "expired"  # the deadline passed on every rank before there was anything to read
    ABORTED = "aborted"
    FAILED = "failed"  # a copy failed on some rank, or it had no store to attach


class Loss(Enum):
    """Why tokens of a span did not come to L2."""

    NOT_STORED = "not_stored"  # no rank can restore so much
    NOT_COMMON = "not_common"  # some rank can, and not all
    BELOW_THRESHOLD = "below_threshold"
    CAPACITY = "capacity"  # no host pages
    NOT_READ = "not_read"  # the store of some rank did not deliver
    DEADLINE = "deadline"
    NO_WINDOW = "no_window"  # of its own it loses no token: the FULL pages stay as tombstones
    STRICT = "strict"  # read, but without its window
    ANCHOR = "anchor"  # the node that the span follows has lost its host copy
    ABORTED = "aborted"


class LostTokens(NamedTuple):
    """One loss of a prefetch."""

    why: Loss
    num_tokens: int
    detail: str = ""

    def __str__(self) -> str:
        return f"{self.num_tokens} tokens: {_LOSSES[self.why]}{self.detail and ', ' + self.detail}"


_LOSSES = {
    Loss.NOT_STORED: "not in the store",
    Loss.NOT_COMMON: "not in the store of every rank",
    Loss.BELOW_THRESHOLD: "what is in the store is below the threshold",
    Loss.CAPACITY: "no room on the host",
    Loss.NOT_READ: "a read did not deliver them",
    Loss.DEADLINE: "the deadline has passed",
    Loss.NO_WINDOW: "the window was dropped",
    Loss.STRICT: "dropped, as their window was",
    Loss.ANCHOR: "the node before them has lost its host copy",
    Loss.ABORTED: "aborted",
}


@dataclass
class PrefetchRecord:
    """What became of one prefetch, in tokens of the sequence. Equal on every rank.

    Of the span each token is committed, was present, or is lost for one reason.
    """

    op_id: int
    num_matched_tokens: int  # where the span begins: what L2 had already
    num_span_tokens: int  # asked of L3
    num_device_tokens: int = 0  # the first of the span: L1 has them, L2 has not
    num_hit_tokens: int = 0  # the largest endpoint of any rank
    num_agreed_tokens: int = 0  # the largest endpoint that all ranks can restore
    num_loaded_tokens: int = 0  # read by all ranks
    num_committed_tokens: int = 0  # new in the tree
    num_present_tokens: int = 0  # read, but by then in L2
    num_queries: int = 0  # times that the store was asked
    num_window_pages: dict[str, int] = field(default_factory=dict)  # asked, per window pool
    num_attached_pages: dict[str, int] = field(default_factory=dict)  # of these, taken by the tree
    outcome: Outcome | None = None
    losses: list[LostTokens] = field(default_factory=list)
    num_read_bytes: int = 0
    local_errors: list[str] = field(default_factory=list)  # of this rank alone

    def lose(self, why: Loss, num_tokens: int, detail: str = "") -> None:
        """Notes a loss; one of nothing needs a detail to be one."""
        if num_tokens or detail:
            self.losses.append(LostTokens(why, num_tokens, detail))

    def lose_rest(self, why: Loss, detail: str = "") -> None:
        """What has come to no end so far ends here."""
        ended = self.num_committed_tokens + self.num_present_tokens
        ended += sum(loss.num_tokens for loss in self.losses)
        self.lose(why, self.num_span_tokens - ended, detail)


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
    num_dropped_pages: dict[Drop, int] = field(default_factory=dict)  # not in L3; of this rank

    def drop(self, why: Drop, num_pages: int) -> None:
        """Pages that this rank's store lacks and will not get from this backup."""
        if num_pages:
            self.num_dropped_pages[why] = self.num_dropped_pages.get(why, 0) + num_pages


@dataclass
class ParkRecord(TransferRecord):
    """A retracted request's pages, device to host."""


@dataclass
class RestoreRecord(TransferRecord):
    """The same, host to device."""


class Drop(Enum):
    """Why pages of a backup did not come to L3. L1 and L2 have them."""

    STORE_BUSY = "store_busy"  # it has `max_store_writes` backups to write; on every rank alike
    NOT_WRITTEN = "not_written"  # the store took them not, or not all calls came to an end


class StoreAction(Enum):
    """What happens to L3."""

    ATTACH = "attach_store"
    DETACH = "detach_store"
    CLEAR = "clear_store"


@dataclass
class StoreRecord:
    """What became of an attach, detach or clear of the store. Equal on every rank."""

    op_id: int
    action: StoreAction
    outcome: Outcome | None = None
    local_errors: list[str] = field(default_factory=list)  # of this rank alone


Record = PrefetchRecord | TransferRecord | StoreRecord
