"""What a prefetch does on an I/O thread: asks a store, and reads from it until it is told to stop.

A store is foreign code. An answer that is too short, or none at all, is that the rest is not there;
an error of one pool does not undo what was read of another.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from hicache_ext.errors import StoreTimeout
from hicache_ext.flow.pools import PoolSet
from hicache_ext.flow.span import Span
from hicache_ext.storage.endpoints import restorable_endpoints
from hicache_ext.storage.limit import Limit
from hicache_ext.storage.protocol import PageStore
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

    def present(name: str) -> list[bool]:
        """Page by page; one without its sidecars' part is not there."""
        answers = [store.exists(n, span.keys, stop) or [] for n in (name, *pools.sidecars_of(name))]
        return [all(parts) for parts in zip(*answers, strict=False)]

    full = present("full")[: len(span.keys)]
    windows = {name: (present(name), num_pages) for name, num_pages in span.window_pages.items()}
    # The match ends at or behind the anchor, so what a window needs before the span is there.
    endpoints = restorable_endpoints(full, windows, has_head=True)
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
    after each batch.
    """
    arrived = Arrived()

    def read(name: str, keys: Sequence[bytes]) -> int:
        """The leading pages that have arrived with their sidecars' parts."""
        sidecars = pools.sidecars_of(name)
        ids = held[name][: len(keys)]
        return min(read_pool(part, ids, keys) for part in (name, *sidecars))

    def read_pool(name: str, ids: Sequence[int], keys: Sequence[bytes]) -> int:
        pool = pools.get(Tier.HOST, name)
        pages = [pool.page_view(i) for i in ids]
        num_read, error = read_leading(store, name, keys, pages, stop, moved)
        arrived.num_bytes += num_read * pool.spec.page_bytes
        if error is not None:
            arrived.errors.append(f"prefetch read of {name} failed: {error}")
            logger.warning("%s", arrived.errors[-1])
        return num_read

    arrived.num_full = read("full", span.keys)
    # A window without its FULL pages cannot be used: do not read it.
    if arrived.num_full == len(span.keys) or span.has_whole_windows:
        for name, num_pages in span.window_pages.items():
            keys = span.keys[len(span.keys) - num_pages : arrived.num_full]
            arrived.num_window[name] = read(name, keys)
    return arrived


def read_leading(
    store: PageStore,
    pool: str,
    keys: Sequence[bytes],
    pages: Sequence[memoryview],
    stop: Limit,
    moved: Callable[[], None] = lambda: None,
) -> tuple[int, str | None]:
    """Reads pages in order until one is missing; how many came before it, and the error if any."""
    num_read = 0
    step = max(1, READ_BATCH_BYTES // pages[0].nbytes) if pages else 1
    for start in range(0, len(keys), step):
        if stop.is_over:
            break
        batch = slice(start, start + step)
        try:
            arrived = store.read_into(pool, keys[batch], pages[batch], stop) or []
        except Exception as error:
            if isinstance(error, StoreTimeout):
                error.wait()  # what we return says that nobody writes into the pages
            return num_read, repr(error)  # as text: it holds on to the pages
        moved()
        # A store that answers short, or not at all, has not read the rest.
        num_asked = len(keys[batch])
        num_leading = next((i for i, ok in enumerate(arrived) if not ok), len(arrived))
        num_read += min(num_leading, num_asked)
        if num_leading < num_asked:
            break
    return num_read, None
