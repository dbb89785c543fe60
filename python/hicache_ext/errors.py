"""What can go wrong. Messages carry values; allocators return None when full, not an error."""

from collections.abc import Callable


class HiCacheError(Exception):
    """Base of every error of this package."""


class LayoutError(HiCacheError, ValueError):
    """A page size, shape, dtype or stride that does not fit."""


class PageIndexError(LayoutError, IndexError):
    """A page id out of range; the message names side, position and value."""


class CapacityError(HiCacheError):
    """A pool, queue or slot table cannot hold what was asked of it."""


class StorageError(HiCacheError):
    """A page store cannot be used: not writable, foreign format, failing device."""


class StoreTimeout(StorageError):
    """A call overran its limit and its engine still holds the caller's buffers.

    The pages stay borrowed until wait() returns True: before that they are not to be read, freed
    or given to anybody else.
    """

    def __init__(self, message: str, wait: Callable[[float | None], bool]) -> None:
        super().__init__(message)
        self._wait = wait

    def wait(self, timeout_s: float | None = None) -> bool:
        """Until the engine has let go of the buffers, or for so long; whether it has."""
        return self._wait(timeout_s)


class AgreementError(HiCacheError):
    """Ranks disagree, or one is late or dead; the message names lane or rank and the values."""


class TreeError(HiCacheError):
    """A misuse of the radix tree: a stale receipt, a page handed over twice, a broken invariant."""


class CudaError(HiCacheError, RuntimeError):
    """A CUDA runtime call or kernel failed."""


class ModelError(HiCacheError):
    """A model that cannot be driven: attention pattern not known, weights missing or wrong."""


class LifetimeError(HiCacheError, ValueError, BufferError):
    """A buffer used after it was closed, or closed while views of it are alive."""
