"""Reading a run of pages from a store, so that it can be given up on the way."""

from __future__ import annotations

import threading
from collections.abc import Sequence

from hicache_ext.storage.protocol import PageStore

READ_BATCH_BYTES = 32 << 20  # between two looks at the abort flag: 10 to 100 ms of a disk


def read_leading(
    store: PageStore,
    pool: str,
    keys: Sequence[bytes],
    pages: Sequence[memoryview],
    stop: threading.Event,
) -> int:
    """Reads pages in order until one is missing; returns how many came before it."""
    num_read = 0
    step = max(1, READ_BATCH_BYTES // pages[0].nbytes) if pages else 1
    for start in range(0, len(keys), step):
        if stop.is_set():
            break
        batch = slice(start, start + step)
        arrived = store.read_into(pool, keys[batch], pages[batch])
        # A store that answers short, or not at all, has not read the rest.
        num_asked = len(keys[batch])
        num_leading = next((i for i, ok in enumerate(arrived) if not ok), len(arrived))
        num_read += min(num_leading, num_asked)
        if num_leading < num_asked:
            break
    return num_read
