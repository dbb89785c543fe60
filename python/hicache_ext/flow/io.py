"""Where store calls run: threads beside the scheduler, or inline for single-threaded tools."""

from __future__ import annotations

import logging
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Protocol, TypeVar

T = TypeVar("T")

logger = logging.getLogger("hicache_ext")


class Io(Protocol):
    """Runs store calls; the tick polls the futures and never waits for them."""

    def submit(self, call: Callable[[], T]) -> Future[T]:
        """Starts `call`, which may take long, and returns its future."""
        ...

    def close(self) -> None: ...


class ThreadIo:
    """Store calls on a few threads; they release the GIL while they move bytes."""

    def __init__(self, num_threads: int = 2) -> None:
        self._threads = ThreadPoolExecutor(num_threads, thread_name_prefix="hicache-io")

    def submit(self, call: Callable[[], T]) -> Future[T]:
        return self._threads.submit(call)

    def close(self) -> None:
        """Waits for the calls under way: their buffers belong to the pools."""
        self._threads.shutdown(wait=True)


class InlineIo:
    """Runs each call at once, on the caller's thread: the same order every time."""

    def submit(self, call: Callable[[], T]) -> Future[T]:
        """The call is over when this returns."""
        future: Future[T] = Future()
        try:
            future.set_result(call())
        except Exception as error:  # handed to whoever reads the future, as a thread would
            # Its traceback has this frame, too: that cycle would keep the call's buffers alive.
            future.set_exception(error.with_traceback(None))
        return future

    def close(self) -> None:
        pass


def settle(future: Future[T], fallback: T, what: str) -> tuple[T, str | None]:
    """The value of a finished store call, or `fallback` and the reason.

    A store is foreign code that may fail in any way; to the ranks that is a miss, which they
    agree on like any other. The failure is logged and travels in the op's record.
    """
    error = future.exception()
    if error is None:
        return future.result(), None
    reason = f"{what} failed: {error!r}"  # as text: the error holds on to the call's buffers
    logger.warning("%s", reason)
    return fallback, reason
