"""Counters of one rank since the cache was made."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from hicache_ext.flow.prefetch_rules import Refusal
from hicache_ext.flow.record import BackupRecord, LoadBackRecord, PrefetchRecord, Record


@dataclass
class CacheStats:
    """Tokens and bytes by route, and how ops ended."""

    num_matches: int = 0
    num_device_hit_tokens: int = 0
    num_host_hit_tokens: int = 0
    num_storage_hit_tokens: int = 0  # committed to L2 by prefetches
    num_load_back_bytes: int = 0  # L2 to L1
    num_backup_bytes: int = 0  # L1 to L2
    num_read_bytes: int = 0  # L3 to L2
    num_stored_bytes: int = 0  # L2 to L3
    num_waiting_ops: int = 0  # in line for a slot of the tick, now
    max_waiting_ops: int = 0  # at any publish so far
    num_hung_ops: int = 0  # given up, and a store call of this rank has not returned, now
    num_outcomes: dict[str, int] = field(default_factory=dict)  # by flow and outcome
    num_refusals: dict[str, int] = field(default_factory=dict)  # prefetches that did not begin
    num_dropped_pages: dict[str, int] = field(default_factory=dict)  # of backups, by reason
    num_lost_tokens: dict[str, int] = field(default_factory=dict)  # of prefetches, by reason

    def count_match(self, num_device_tokens: int, num_host_tokens: int) -> None:
        """One match and the tier that each of its tokens comes from."""
        self.num_matches += 1
        self.num_device_hit_tokens += num_device_tokens
        self.num_host_hit_tokens += num_host_tokens

    def count_refusal(self, refusal: Refusal | None) -> None:
        """A prefetch that was asked for; None: it has begun."""
        if refusal is not None:
            name = refusal.name.lower()
            self.num_refusals[name] = self.num_refusals.get(name, 0) + 1

    def count_waiting(self, num_ops: int, max_ops: int) -> None:
        """The ops in line now, and the most at any publish."""
        self.num_waiting_ops, self.max_waiting_ops = num_ops, max_ops

    def count_records(self, records: Iterable[Record]) -> None:
        """The ops that a tick has ended."""
        for record in records:
            outcome = record.outcome.value if record.outcome else "unknown"
            key = f"{type(record).__name__.removesuffix('Record').lower()}.{outcome}"
            self.num_outcomes[key] = self.num_outcomes.get(key, 0) + 1
            if isinstance(record, PrefetchRecord):
                self.num_storage_hit_tokens += record.num_committed_tokens
                self.num_read_bytes += record.num_read_bytes
                for loss in record.losses:
                    num = self.num_lost_tokens.get(loss.why.value, 0)
                    self.num_lost_tokens[loss.why.value] = num + loss.num_tokens
            elif isinstance(record, LoadBackRecord):
                self.num_load_back_bytes += record.num_copied_bytes
            elif isinstance(record, BackupRecord):
                self.num_backup_bytes += record.num_copied_bytes
                self.num_stored_bytes += record.num_stored_bytes
                for why, num_pages in record.num_dropped_pages.items():
                    num = self.num_dropped_pages.get(why.value, 0)
                    self.num_dropped_pages[why.value] = num + num_pages
