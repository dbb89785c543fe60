"""What must hold: every rank writes the same journal, and prefetches find what is there."""

from __future__ import annotations

from dataclasses import dataclass, field

from hicache_ext.flow.record import Loss, Outcome, PrefetchRecord, Record, StoreRecord

from .memory import PAGE_SIZE
from .rank import SimRank


class Violation(AssertionError):
    """The cache did what it must not do."""


class Journal:
    """The first rank to get somewhere writes down what it saw; all others must see the same."""

    def __init__(self, num_ranks: int) -> None:
        self.entries: list[tuple[int, str]] = []
        self.picture = ""  # the last one that was written down
        self._positions = [0] * num_ranks

    def say(self, rank: int, text: str) -> bool:
        """True for the first rank to say it."""
        position = self._positions[rank]
        self._positions[rank] += 1
        if position == len(self.entries):
            self.entries.append((rank, text))
            return True
        other, theirs = self.entries[position]
        if theirs != text:
            raise Violation(
                f"ranks differ in entry {position}:\n"
                f"  rank {other}: {theirs}\n  rank {rank}: {text}"
            )
        return False


def describe(record: Record) -> str:
    """How an op ended, without what is of one rank alone."""
    assert record.outcome is not None
    kind = type(record).__name__.removesuffix("Record").lower()
    text = f"{kind} {record.op_id} {record.outcome.value}"
    if isinstance(record, PrefetchRecord):
        tokens = (
            record.num_matched_tokens,
            record.num_span_tokens,
            record.num_hit_tokens,
            record.num_agreed_tokens,
            record.num_loaded_tokens,
            record.num_committed_tokens,
            record.num_present_tokens,
        )
        windows = record.num_window_pages, record.num_attached_pages
        losses = [(loss.why.value, *loss[1:]) for loss in record.losses]
        names = "matched, span, hit, agreed, loaded, committed, present"
        return f"{text} {names} {tokens} {windows} {losses}"
    if isinstance(record, StoreRecord):
        return f"{text} {record.action.value}"
    return f"{text} {record.num_pages}"


@dataclass
class Asked:
    """A prefetch as its request sees it, and how long each store's log was then."""

    keys: list[bytes]  # of the whole prompt
    log_starts: dict[int, int] = field(default_factory=dict)  # per rank


class Oracle:
    """Works out, from what the stores answered, what a prefetch had to agree on and to load.

    Restorable endpoints as the design defines them, by trying each: nothing of the package.
    """

    def __init__(self, ranks: list[SimRank], window_pages: int | None) -> None:
        self._ranks = ranks
        self._window_pages = window_pages
        self.num_checked = 0

    def check(self, record: PrefetchRecord, asked: Asked) -> None:
        ended = record.num_committed_tokens + record.num_present_tokens
        ended += sum(loss.num_tokens for loss in record.losses)
        if ended != record.num_span_tokens:
            raise Violation(f"tokens that came to no end: {describe(record)}")
        if record.outcome in (Outcome.ABORTED, Outcome.EXPIRED):
            return
        first = record.num_matched_tokens // PAGE_SIZE
        num_pages = record.num_span_tokens // PAGE_SIZE
        keys = asked.keys[first : first + num_pages]
        window = min(self._window_pages or 0, num_pages)
        known = record.num_device_tokens // PAGE_SIZE
        sets = [self._endpoints(r, s, keys, window, known) for r, s in self._logs(asked)]
        if any(endpoints is None for endpoints in sets):
            return
        agreed = max(set.intersection(*sets), default=0)  # type: ignore[arg-type]
        found = record.num_agreed_tokens // PAGE_SIZE
        if found != agreed:
            raise Violation(
                f"prefetch {record.op_id} agreed on {found} of {num_pages} pages, the largest "
                f"endpoint that all ranks can restore is {agreed}; per rank: {sets}"
            )
        self.num_checked += 1
        if record.outcome in (Outcome.COMMITTED, Outcome.DROPPED):
            self._check_loaded(record, asked, keys[:agreed], min(window, agreed))

    def _logs(self, asked: Asked) -> list[tuple[SimRank, int]]:
        return [(rank, asked.log_starts[rank.rank]) for rank in self._ranks]

    def _endpoints(
        self, rank: SimRank, start: int, keys: list[bytes], window: int, known: int
    ) -> set[int] | None:
        """None when it is not sure which answers this prefetch got."""
        full = _answers(rank, start, "exists", "full", keys)
        swa = _answers(rank, start, "exists", "swa", keys) if window else []
        if full is None or (full and window and swa is None):
            return None
        endpoints = set()
        for end in range(known + 1, min(len(keys), len(full)) + 1):
            need = min(window, end)
            tail = swa[end - need : end] if end >= need else []  # type: ignore[index]
            fits = end <= rank.host["full"].capacity
            fits &= not window or min(window, end) <= rank.host["swa"].capacity
            if fits and all(full[:end]) and len(tail) == need and all(tail):
                endpoints.add(end)
        return endpoints

    def _check_loaded(
        self, record: PrefetchRecord, asked: Asked, keys: list[bytes], window: int
    ) -> None:
        arrived, num_windows = [], []
        for rank, start in self._logs(asked):
            answer = _answers(rank, start, "read_into", "full", keys)
            if answer is None:
                return
            arrived.append(_leading(answer, len(keys)))
            wanted = keys[len(keys) - window : arrived[-1]]
            if not wanted:
                num_windows.append(0)
            elif arrived[-1] == len(keys) or window == len(keys):
                answer = _answers(rank, start, "read_into", "swa", wanted)
                if answer is None:
                    return
                num_windows.append(_leading(answer, window))
        loaded = record.num_loaded_tokens // PAGE_SIZE
        # A read that was told to stop may have asked for nothing: the answers are then those to
        # another prefetch.
        is_stopped = any(loss.why is Loss.DEADLINE for loss in record.losses)
        if loaded > min(arrived) or (loaded < min(arrived) and not is_stopped):
            raise Violation(
                f"prefetch {record.op_id} loaded {loaded} pages, the stores gave {arrived}"
            )
        if is_stopped:
            return
        losses = [x for x in record.losses if x.why not in (Loss.NOT_STORED, Loss.NOT_COMMON)]
        is_whole = min(arrived) == len(keys) and min(num_windows, default=window) == window
        # Below the endpoint a window is whole only where it reaches back to the anchor.
        end = window if is_whole else min(num_windows) if window == len(keys) else 0
        has_window = set(record.num_attached_pages) == ({"swa"} if window and end else set())
        if is_whole and (losses or not has_window):
            raise Violation(f"all of a prefetch arrived everywhere, but: {describe(record)}")
        if not is_whole and (not has_window or not losses):
            raise Violation(f"not all of a prefetch arrived everywhere, but: {describe(record)}")


def _answers(
    rank: SimRank, start: int, call: str, pool: str, keys: list[bytes]
) -> list[bool] | None:
    """What the store answered; None if it was not asked, or answered that in several ways."""
    found = [a for a in rank.store.log[start:] if (a.call, a.pool, a.keys) == (call, pool, keys)]
    results = [[] if a.results is None else a.results for a in found]
    return results[0] if results and all(r == results[0] for r in results) else None


def _leading(results: list[bool], num_asked: int) -> int:
    return next((i for i, ok in enumerate(results) if not ok), min(len(results), num_asked))
