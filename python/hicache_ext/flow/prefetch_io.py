"""The two store calls of a prefetch on one rank: what is under way, what came back, what failed."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

from hicache_ext.flow.io import settle, wait
from hicache_ext.flow.read import Arrived
from hicache_ext.storage.limit import Limit

Start = Callable[[Callable[[], Any]], Future[Any]]


class PrefetchIo:
    """A failed call is one that found nothing; `errors` tells of it."""

    def __init__(self, start: Start, errors: list[str]) -> None:
        self._start = start
        self._errors = errors
        self._query: Future[list[int]] | None = None
        self._read: Future[Arrived] | None = None
        self._endpoints: list[int] | None = None
        self._arrived: Arrived | None = None
        self.stop = Limit()
        """Tells the query and the read to end soon."""

    @property
    def has_asked(self) -> bool:
        return self._query is not None

    @property
    def reads(self) -> bool:
        """The pages are in the hands of a read, be it over."""
        return self._read is not None

    def ask(self, query: Callable[[], list[int]]) -> None:
        self._query = self._start(query)

    def read(self, read: Callable[[], Arrived]) -> None:
        self._read = self._start(read)

    def endpoints(self) -> list[int] | None:
        """What the query found; None: not yet."""
        if self._endpoints is None and self._query is not None and self._query.done():
            found, error = settle(self._query, [], "prefetch query")
            self._errors += [error] if error else []
            self._endpoints = found
        return self._endpoints

    def arrived(self) -> Arrived | None:
        """What this rank has read; None: not yet all."""
        if self._arrived is None and self._read is not None and self._read.done():
            arrived, error = settle(self._read, Arrived(), "prefetch read")
            self._errors += arrived.errors + ([error] if error else [])
            self._arrived = arrived
        return self._arrived

    def is_over(self) -> bool:
        """No call touches anything of ours any more."""
        return all(future is None or future.done() for future in (self._query, self._read))

    def wait(self) -> None:
        self.stop.cancel()
        for future in (self._query, self._read):
            if future is not None:
                wait(future)

    def forget(self) -> None:
        """An error's traceback holds on to the pools' buffers."""
        self._query = self._read = self._endpoints = None
