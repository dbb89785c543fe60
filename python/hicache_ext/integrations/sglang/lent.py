"""Memory that a store's engine may hold longer than the call that lent it."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from hicache_ext.errors import StorageError, StoreTimeout


@contextmanager
def lent(memory: object) -> Iterator[None]:
    """Inside, a store works on `memory`, which nobody else will use: tensors made for this call.

    Where the engine does not give it back in time, it is kept alive until it does, and the call
    ends with a StorageError instead of waiting.
    """
    try:
        yield
    except StoreTimeout as error:
        _keep(memory, error)
        raise StorageError(str(error)) from error


def _keep(memory: object, error: StoreTimeout) -> None:
    def wait(memory: object) -> None:
        error.wait()

    threading.Thread(target=wait, args=(memory,), name="hicache-lent", daemon=True).start()
