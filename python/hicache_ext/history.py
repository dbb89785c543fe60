"""What became of requests, for people: from which tier their tokens came, and why others did not.

A record is kept of requests that have a name, and of each prefetch by its op id; the last
MAX_REQUESTS that something happened to.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import NamedTuple

from hicache_ext.errors import HiCacheError
from hicache_ext.flow.record import (
    BackupRecord,
    LoadBackRecord,
    ParkRecord,
    PrefetchRecord,
    RestoreRecord,
    TransferRecord,
)
from hicache_ext.tier import Tier

MAX_REQUESTS = 1024


class Matched(NamedTuple):
    """One match, in tokens from the beginning of the prompt."""

    num_asked: int
    num_device: int
    num_total: int  # on the device and, beyond that, on the host
    num_full: int  # FULL pages are there, their window or state may not be


@dataclass
class RequestRecord:
    """One request on this rank; `str()` tells it in words. Ops in flight are told as they are."""

    name: str | int  # as given, or the op id of its prefetch
    matched: Matched | None = None  # the last match
    refusal: str | None = None  # why the last prefetch was none
    prefetch: PrefetchRecord | None = None
    load_back: LoadBackRecord | None = None
    load_back_refusal: str | None = None
    backup: BackupRecord | None = None  # the last that took pages which it inserted
    retraction: ParkRecord | RestoreRecord | None = None  # the last way to L2, or back

    @property
    def num_matched_tokens(self) -> dict[Tier, int]:
        """By the tier that they come from; STORAGE: what the prefetch has brought to the host,
        which the match counts again if it came later.
        """
        device, total = (
            (self.matched.num_device, self.matched.num_total) if self.matched else (0, 0)
        )
        stored = self.prefetch.num_committed_tokens if self.prefetch else 0
        return {Tier.DEVICE: device, Tier.HOST: total - device, Tier.STORAGE: stored}

    def lines(self) -> list[str]:
        """The record in words, one line each; losses begin with "lost"."""
        lines = [f"request {self.name!r}"]
        if self.matched:
            lines += _match_lines(self.matched)
        if self.refusal:
            lines.append(f"no prefetch: {self.refusal}")
        if self.prefetch:
            lines += _prefetch_lines(self.prefetch)
        if self.load_back_refusal:
            lines.append(f"no load-back: {self.load_back_refusal}")
        if self.load_back:
            lines += _transfer_lines("load-back", self.load_back)
        if self.backup:
            lines += _backup_lines(self.backup)
        if self.retraction:
            is_back = isinstance(self.retraction, RestoreRecord)
            lines += _transfer_lines("restore" if is_back else "park", self.retraction)
        return lines

    def __str__(self) -> str:
        return "\n    ".join(self.lines())


class History:
    """The records, oldest use first."""

    def __init__(self, max_requests: int = MAX_REQUESTS) -> None:
        self._max_requests = max_requests
        self._records: OrderedDict[str | int, RequestRecord] = OrderedDict()

    def matched(self, name: str | None, matched: Matched) -> None:
        """A request without a name is not kept."""
        if name is not None:
            self._of(name).matched = matched

    def prefetched(self, name: str | None, record: PrefetchRecord | None, refusal: str) -> None:
        """A prefetch was asked for: its record, which it goes on to fill in, or a refusal."""
        if record is not None:
            # Both names lead to it; the request's own may have a match beside it.
            self._of(record.op_id).prefetch = record
        if name is not None:
            mine = self._of(name)
            mine.prefetch, mine.refusal = record, refusal or None

    def loaded_back(
        self, name: str | None, record: LoadBackRecord | None, refusal: str = ""
    ) -> None:
        """A load-back was asked for: its record, which it goes on to fill in, or a refusal."""
        if name is not None:
            mine = self._of(name)
            mine.load_back, mine.load_back_refusal = record, refusal or None

    def backed_up(self, name: str, record: BackupRecord) -> None:
        """A backup has begun that takes pages of the request; it goes on to fill in the record."""
        self._of(name).backup = record

    def retracted(self, name: str | None, record: ParkRecord | RestoreRecord) -> None:
        """The request is on its way to L2, or back."""
        if name is not None:
            self._of(name).retraction = record

    def get(self, name: str | int) -> RequestRecord:
        """HiCacheError for one that is not known, any more."""
        record = self._records.get(name)
        if record is None:
            raise HiCacheError(
                f"request or op {name!r} is not known: {len(self._records)} of at most "
                f"{self._max_requests} are kept"
            )
        return record

    def _of(self, name: str | int) -> RequestRecord:
        record = self._records.setdefault(name, RequestRecord(name))
        self._records.move_to_end(name)
        if len(self._records) > self._max_requests:
            self._records.popitem(last=False)
        return record


def checked_name(name: str | None) -> str | None:
    """HiCacheError for what cannot name a request: numbers are the ids of ops."""
    if name is not None and not isinstance(name, str):
        raise HiCacheError(f"request={name!r} must be text: numbers are the ids of ops")
    return name


def _match_lines(matched: Matched) -> list[str]:
    asked, device, total, full = matched
    lines = [f"matched {device} tokens on the device and {total - device} on the host, of {asked}"]
    if full > total:
        lines.append(
            f"lost {full - total} tokens: their FULL pages are there, but no window or state ends "
            f"between {total} and {full}"
        )
    if asked > full:
        lines.append(f"lost {asked - full} tokens: in no page of the device or the host")
    return lines


def _prefetch_lines(record: PrefetchRecord) -> list[str]:
    begin = record.num_matched_tokens
    lines = [
        f"prefetch {record.op_id} of tokens {begin} to {begin + record.num_span_tokens}: "
        f"hit {record.num_hit_tokens}, agreed {record.num_agreed_tokens}, "
        f"loaded {record.num_loaded_tokens}, committed {record.num_committed_tokens}: "
        f"{_outcome(record)}"
    ]
    if record.num_window_pages:
        attached = {
            name: record.num_attached_pages.get(name, 0) for name in record.num_window_pages
        }
        asked = _pages(record.num_window_pages)
        lines.append(f"window of {asked}, of which joined the tree: {_pages(attached)}")
    if record.num_present_tokens:
        lines.append(f"{record.num_present_tokens} of them were on the host by then")
    lines += [f"lost {loss}" for loss in record.losses]
    lines += [f"this rank: {error}" for error in record.local_errors]
    return lines


def _transfer_lines(what: str, record: TransferRecord) -> list[str]:
    lines = [f"{what} of {_pages(record.num_pages)}: {_outcome(record)}"]
    return lines + [f"lost: {error}" for error in record.local_errors]


def _backup_lines(record: BackupRecord) -> list[str]:
    """Of all requests whose pages went with this one's."""
    lines = _transfer_lines(f"backup {record.op_id}, for {record.num_requests} requests,", record)
    if record.num_stored_pages:
        lines.append(f"new in L3: {_pages(record.num_stored_pages)}")
    for why, num_pages in record.num_dropped_pages.items():
        lines.append(f"lost {num_pages} pages of it for L3: {why.value}")
    return lines


def _pages(num_pages: dict[str, int]) -> str:
    return ", ".join(f"{num} {name} pages" for name, num in num_pages.items())


def _outcome(record: PrefetchRecord | TransferRecord) -> str:
    return record.outcome.value if record.outcome else "in flight"
