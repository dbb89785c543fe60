"""Where store calls run: threads beside the scheduler, or inline for single-threaded tools."""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from contextlib import suppress
from threading import Barrier
from typing import Any, Protocol, TypeVar

from hicache_ext.errors import StoreTimeout

T = TypeVar("T")

logger = logging.getLogger("hicache_ext")


class Io(Protocol):
    """Runs store calls; the tick polls the futures and never waits for them."""

    def submit(self, call: Callable[[], T]) -> Future[T]:
        """Starts `call`, which may take long, and returns its future.

        If it raises instead, `call` must never run: its pages go to somebody else.
        """
        ...

    def give_up(self, call: Future[Any]) -> None:
        """It hangs, and its op is over: other calls need not wait for it."""
        ...

    def close(self) -> None: ...


class ThreadIo:
    """Store calls on a few threads; they release the GIL while they move bytes.

    `num_threads` calls run at a time. One that is given up does not count: another thread takes
    its place, until `max_hung` of them have not returned.
    """

    def __init__(self, num_threads: int = 2, max_hung: int = 6) -> None:
        self._num_free, self._max_hung = num_threads, max_hung
        self._lock = threading.Lock()
        self._line: deque[tuple[Future[Any], Callable[[], Any]]] = deque()
        self._running: set[Future[Any]] = set()
        self._hung: set[Future[Any]] = set()
        self._is_closed = False
        num_threads += max_hung
        self._threads = ThreadPoolExecutor(num_threads, thread_name_prefix="hicache-io")
        # All of them start now. A submit that cannot start one raises, and yet leaves its call in
        # line for the others.
        together = Barrier(num_threads)
        for started in [self._threads.submit(together.wait) for _ in range(num_threads)]:
            started.result()

    def submit(self, call: Callable[[], T]) -> Future[T]:
        future: Future[T] = Future()
        with self._lock:
            if self._is_closed:
                raise RuntimeError("the I/O threads have been shut down")
            self._line.append((future, call))
            self._begin()
        return future

    def give_up(self, call: Future[Any]) -> None:
        with self._lock:
            if call in self._running and len(self._hung) < self._max_hung:
                self._running.remove(call)
                self._hung.add(call)
                self._num_free += 1
                self._begin()

    def close(self) -> None:
        """Waits for the calls under way: their buffers belong to the pools."""
        with self._lock:
            self._is_closed = True
            calls = [*self._running, *self._hung, *(future for future, _ in self._line)]
        for call in calls:
            wait(call)
        self._threads.shutdown(wait=True)

    def _begin(self) -> None:
        """Under the lock."""
        while self._line and self._num_free:
            future, call = self._line.popleft()
            self._num_free -= 1
            self._running.add(future)
            self._threads.submit(self._run, future, call)

    def _run(self, future: Future[Any], call: Callable[[], Any]) -> None:
        result, error = None, None
        try:
            result = call()
        except BaseException as raised:
            error = raised.with_traceback(None)  # as in _failed
        with self._lock:
            if future in self._running:
                self._running.remove(future)
                self._num_free += 1
                self._begin()
            self._hung.discard(future)
        if error is None:
            future.set_result(result)
        else:
            future.set_exception(error)


class InlineIo:
    """Runs each call at once, on the caller's thread: the same order every time."""

    def submit(self, call: Callable[[], T]) -> Future[T]:
        """The call is over when this returns."""
        future: Future[T] = Future()
        try:
            future.set_result(call())
        except Exception as error:  # handed to whoever reads the future, as a thread would
            return _failed(error)
        return future

    def give_up(self, call: Future[Any]) -> None:
        pass

    def close(self) -> None:
        pass


def start(io: Io, call: Callable[[], T]) -> Future[T]:
    """A call that cannot be started is one that failed: the ranks agree on that like on a miss."""
    try:
        return io.submit(lambda: _until_settled(call))
    except Exception as error:  # e.g. its threads have been shut down
        return _failed(error)


def _until_settled(call: Callable[[], T]) -> T:
    """A call is not over while its engine still holds our pages."""
    try:
        return call()
    except StoreTimeout as error:
        error.wait()
        raise


def _failed(error: Exception) -> Future[T]:
    future: Future[T] = Future()
    # A traceback has the frame that has the future: that cycle would keep buffers alive.
    future.set_exception(error.with_traceback(None))
    return future


def wait(future: Future[Any]) -> None:
    """Until the call touches nothing any more, however it ended."""
    with suppress(CancelledError):
        future.exception()


def settle(future: Future[T], fallback: T, what: str) -> tuple[T, str | None]:
    """The value of a finished store call, or `fallback` and the reason.

    A store is foreign code that may fail in any way; to the ranks that is a miss, which they
    agree on like any other. The failure is logged and travels in the op's record.
    """
    error = CancelledError() if future.cancelled() else future.exception()
    if error is None:
        return future.result(), None
    reason = f"{what} failed: {error!r}"  # as text: the error holds on to the call's buffers
    logger.warning("%s", reason)
    return fallback, reason
