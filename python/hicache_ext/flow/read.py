"""What a prefetch does on an I/O thread: asks a store, and reads from it until it is told to stop.

A store is foreign code. An answer that is too short, or none at all, is that the rest is not there;
an error of one pool does not undo what was read of another.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from hicache_ext.errors import StoreTimeout
from hicache_ext.flow.pools import PoolSet
from hicache_ext.flow.span import Span
from hicache_ext.flow.steps import steps_of
from hicache_ext.storage.endpoints import restorable_endpoints
from hicache_ext.storage.limit import Limit
from hicache_ext.storage.protocol import PageStore
from hicache_ext.storage.several import PoolBatch, SeveralPools, exists_many, read_many
from hicache_ext.tier import Tier

logger = logging.getLogger("hicache_ext")

READ_BATCH_BYTES = 32 << 20  # 10 to 100 ms of a disk, for a store that does not look at its limit


@dataclass
class Arrived:
    """Leading pages that a rank has read; a page after a gap is worth nothing."""

    num_full: int = 0
    num_window: dict[str, int] = field(default_factory=dict)
    num_bytes: int = 0
    errors: list[str] = field(default_factory=list)


def find_endpoints(store: PageStore, span: Span, pools: PoolSet, stop: Limit) -> list[int]:
    """The endpoints of the span that this rank can restore and that gain something, ascending."""

    names = ["full", *span.window_pages]
    parts = {name: [name, *pools.sidecars_of(name)] for name in names}
    asked = [PoolBatch(part, span.keys) for name in names for part in parts[name]]
    answers = iter(exists_many(store, asked, stop))
    # Page by page; one without its sidecars' part is not there.
    present = {
        name: [all(each) for each in zip(*(next(answers) for _ in parts[name]), strict=True)]
        for name in names
    }
    windows = {name: (present[name], num_pages) for name, num_pages in span.window_pages.items()}
    # The match ends at or behind the anchor, so what a window needs before the span is there.
    endpoints = restorable_endpoints(present["full"], windows, has_head=True)
    # What the host could never hold is no hit.
    return [
        e for e in endpoints if e > span.num_device_pages and pools.fits(Tier.HOST, span.need(e))
    ]


def read_span(
    store: PageStore,
    span: Span,
    pools: PoolSet,
    held: Mapping[str, Sequence[int]],
    stop: Limit,
    moved: Callable[[], None],
) -> Arrived:
    """Reads into the host pages `held`: the FULL pages in order, then the windows. Calls `moved`
    after each step. Where the store reads several pools at once, a step is of several.

    A window without its FULL pages cannot be used: with their last step is the soonest it is read,
    and where they fall short, those of its pages alone that still have theirs.
    """
    reading = _Reading(span, pools, held)
    for step in _steps(reading.batches(), isinstance(store, SeveralPools)):
        wanted = [still for batch in step if (still := reading.still_wanted(batch)).keys]
        if stop.is_over:
            break
        if not wanted:
            continue
        try:
            answers = read_many(store, wanted, stop)
        except Exception as error:
            if isinstance(error, StoreTimeout):
                error.wait()  # what we return says that nobody writes into the pages
            reading.fail(wanted, error)
            continue
        moved()
        for batch, answer in zip(wanted, answers, strict=True):
            reading.arrive(batch, answer)
    return reading.arrived()


def _steps(groups: Sequence[Sequence[PoolBatch]], is_several: bool) -> Iterator[list[PoolBatch]]:
    for step in steps_of(groups, READ_BATCH_BYTES):
        yield from [step] if is_several else ([batch] for batch in step)


class _Reading:
    """What has arrived of each pool, sidecars apart. A pool ends with the first page that lacks."""

    def __init__(self, span: Span, pools: PoolSet, held: Mapping[str, Sequence[int]]) -> None:
        self._span = span
        self._pools = pools
        self._held = held
        num_full = len(span.keys)
        self._keys: dict[str, Sequence[bytes]] = {"full": span.keys}
        for name, num_pages in span.window_pages.items():
            self._keys[name] = span.keys[num_full - num_pages :]
        self._parts = {name: (name, *pools.sidecars_of(name)) for name in self._keys}
        self._follows = {part: name for name, parts in self._parts.items() for part in parts}
        self._num_read = dict.fromkeys(self._follows, 0)
        self._has_gap: set[str] = set()
        self._errors: list[str] = []

    def batches(self) -> list[list[PoolBatch]]:
        """Of each pool with its sidecars, in the order in which they are to be read."""
        groups = []
        for name, keys in self._keys.items():
            views = [self._pools.get(Tier.HOST, part).page_view for part in self._parts[name]]
            pages = [[view(i) for i in self._held[name]] for view in views]
            parts = zip(self._parts[name], pages, strict=True)
            groups.append([PoolBatch(part, keys, views) for part, views in parts])
        return groups

    def still_wanted(self, batch: PoolBatch) -> PoolBatch:
        """What is of use of it."""
        name = self._follows[batch.pool]
        num_wanted = len(batch.keys)
        if name != "full" and self._has_gap.intersection(self._parts["full"]):
            is_of_use = self._span.has_whole_windows
            num_wanted = max(0, self._num_full - self._num_read[batch.pool]) if is_of_use else 0
        if self._has_gap.intersection(self._parts[name]):
            num_wanted = 0
        return PoolBatch(batch.pool, batch.keys[:num_wanted], batch.pages[:num_wanted])

    def arrive(self, batch: PoolBatch, answer: Sequence[bool]) -> None:
        num_asked = len(batch.keys)
        num_leading = next((i for i, ok in enumerate(answer) if not ok), num_asked)
        self._num_read[batch.pool] += num_leading
        if num_leading < num_asked:
            self._has_gap.add(batch.pool)

    def fail(self, batches: Sequence[PoolBatch], error: Exception) -> None:
        """As text: an error holds on to the pages."""
        names = ", ".join(batch.pool for batch in batches)
        self._has_gap |= {batch.pool for batch in batches}
        self._errors.append(f"prefetch read of {names} failed: {error!r}")
        logger.warning("%s", self._errors[-1])

    def arrived(self) -> Arrived:
        windows = {name: self._num_whole(name) for name in self._parts if name != "full"}
        if self._num_full < len(self._span.keys):
            is_of_use = self._span.has_whole_windows
            windows = {n: min(w, self._num_full) for n, w in windows.items() if is_of_use}
        num_bytes = sum(
            n * self._pools.get(Tier.HOST, part).spec.page_bytes
            for part, n in self._num_read.items()
        )
        return Arrived(self._num_full, windows, num_bytes, self._errors)

    @property
    def _num_full(self) -> int:
        return self._num_whole("full")

    def _num_whole(self, name: str) -> int:
        """Leading pages that have arrived with their sidecars' parts."""
        return min(self._num_read[part] for part in self._parts[name])
