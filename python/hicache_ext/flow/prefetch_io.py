"""The two store calls of a prefetch on one rank: what is under way, what came back, what failed."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future

from hicache_ext.flow.context import FlowContext
from hicache_ext.flow.hang import Watch
from hicache_ext.flow.io import settle, wait
from hicache_ext.flow.op import Op
from hicache_ext.flow.read import Arrived
from hicache_ext.flow.reserve import Reservation
from hicache_ext.storage.limit import Limit


class PrefetchIo:
    """A failed call is one that found nothing; `errors` tells of it."""

    def __init__(self, op: Op, ctx: FlowContext, errors: list[str]) -> None:
        self._op, self._ctx = op, ctx
        self._errors = errors
        self._watch = Watch(op, ctx)
        self.moved = self._watch.moved
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
        self.moved()
        self._query = self._op._call(self._ctx.io, query)

    def read(self, read: Callable[[], Arrived]) -> None:
        self.moved()
        self._read = self._op._call(self._ctx.io, read)

    def hangs(self) -> bool:
        """Whether a call has got no further for long."""
        return not self.is_over() and self._watch.hangs()

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

    def lend(self, reservation: Reservation | None) -> None:
        """The op ends and a call does not: it has the pages until it returns."""
        self.stop.cancel()
        pages: dict[str, list[int]] = {}
        if reservation is not None:
            pages, reservation.pages = reservation.pages, {}
        calls = [call for call in (self._query, self._read) if call is not None]
        self._ctx.lent.lend(calls, pages)
        self._errors.append(f"prefetch {self._op.op_id}: a store call hangs and was given up")

    def forget(self) -> None:
        """An error's traceback holds on to the pools' buffers."""
        self._query = self._read = self._endpoints = None
