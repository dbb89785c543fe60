"""RemoteStore: what the stores over a server have in common. A server in trouble is a miss."""

import threading
from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

from ..errors import StorageError, StoreTimeout
from .breaker import BreakerState, CircuitBreaker, Verdict
from .calls import OpenCalls
from .limit import Limit
from .namespace import StoreNamespace
from .protocol import (
    STAT_NAMES,
    Capabilities,
    check_keys,
    check_namespaces,
    check_page_bytes,
    check_pages,
)
from .remote_call import CallOver, EngineError, Patience
from .several import OneOfSeveral, PageWrite, PoolBatch, fates_of, part_of

_T = TypeVar("_T")

_STATS = (
    *STAT_NAMES,
    "num_corrupt_pages",  # there, but not what was written; removed
    "num_refused_pages",  # which the server had, or was to take, and would not
    "num_failed_calls",  # the server was lost, or refused everything
    "num_late_calls",  # cut at a deadline, or cancelled
    "num_skipped_calls",  # not made, as the circuit breaker was open
)


@dataclass(frozen=True)
class RemotePool:
    """One pool of a store; `digest` is that of its namespace."""

    name: str
    digest: str
    page_bytes: int


@dataclass(frozen=True)
class RemotePart:
    """Some keys of one pool and, but for a question, their pages, as bytes. All that is True of
    them is filled in as it comes: `results`, whether it is there, read or stored, and `are_new`,
    whether this call stored it.
    """

    pool: RemotePool
    keys: Sequence[bytes]
    pages: Sequence[memoryview]
    results: list[bool]
    are_new: list[bool]

    @classmethod
    def of(cls, pool: RemotePool, batch: PoolBatch) -> "RemotePart":
        num_keys = len(batch.keys)
        pages = [page.cast("B") for page in batch.pages]
        return cls(pool, batch.keys, pages, [False] * num_keys, [False] * num_keys)


def dealt(parts: Sequence[RemotePart], values: Sequence[_T]) -> Iterator[Sequence[_T]]:
    """The values of each part, where those of all keys stand one after the other."""
    end = 0
    for part in parts:
        start, end = end, end + len(part.keys)
        yield values[start:end]


_UNKNOWN = RemotePool("", "", 0)


class RemoteStore(OneOfSeveral):
    """A PageStore whose pages lie in a server; the subclass talks to it.

    exists, read_into and write_from never raise because of the server: what it did not answer in
    time is False, `last_error` says why, and after a few bad calls in a row the circuit breaker
    keeps the next ones away from it for a while. remove and clear raise StorageError instead:
    whoever calls them has to know. Each call has `timeout_s` at most, a shorter Limit included.
    """

    capabilities: Capabilities

    def __init__(
        self,
        where: str,
        namespaces: Mapping[str, StoreNamespace],
        page_bytes: Mapping[str, int],
        *,
        timeout_s: float,
        breaker: CircuitBreaker | None,
    ) -> None:
        """`where` names the server in messages. Every pool of `page_bytes` has its namespace."""
        sizes = check_page_bytes(page_bytes)
        check_namespaces(sizes, namespaces)
        if not timeout_s > 0:
            raise StorageError(f"timeout_s={timeout_s}, expected more than 0")
        self.where = where
        self.last_error = ""
        self.breaker = breaker or CircuitBreaker()
        self._timeout_s = timeout_s
        self._pools = {
            name: RemotePool(name, namespaces[name].digest(), num_bytes)
            for name, num_bytes in sizes.items()
        }
        self._calls = OpenCalls(f"store at {where}")
        self._lock = threading.Lock()  # of the counters
        self._counters = dict.fromkeys(_STATS, 0)

    def exists_many(
        self, batches: Sequence[PoolBatch], limit: Limit | None = None
    ) -> list[list[bool]]:
        for batch in batches:
            check_keys(batch.pool, batch.keys)
        with self._calls.one():
            parts = self._parts(batches)
            self._attempt(limit, parts, self._exists)
        return [part.results for part in parts]

    def read_many(
        self, batches: Sequence[PoolBatch], limit: Limit | None = None
    ) -> list[list[bool]]:
        with self._calls.one():
            parts = self._parts(batches, "read")
            try:
                self._attempt(limit, parts, self._read)
            finally:
                for part in filter(_is_known, parts):
                    num_read = sum(part.results)
                    self._count("num_read_pages", num_read)
                    self._count("num_missed_pages", len(part.keys) - num_read)
                    self._count("read_bytes", num_read * part.pool.page_bytes)
        return [part.results for part in parts]

    def write_from(
        self,
        pool: str,
        keys: Sequence[bytes],
        pages: Sequence[memoryview],
        limit: Limit | None = None,
    ) -> list[bool]:
        with self._calls.one():
            parts = self._parts([PoolBatch(pool, keys, pages)], "write")
            self._attempt(limit, parts, self._write)
        return parts[0].results

    def write_many(
        self, batches: Sequence[PoolBatch], limit: Limit | None = None
    ) -> list[list[PageWrite]]:
        with self._calls.one():
            parts = self._parts(batches, "write")
            self._attempt(limit, parts, self._write_missing)
        return [fates_of(part.results, part.are_new) for part in parts]

    def remove(self, pool: str, keys: Sequence[bytes]) -> int:
        """StorageError if the server does not do it; some of the pages may be gone."""
        check_keys(pool, keys)
        with self._call(pool) as held:
            if held is None or not keys:
                return 0
            return self._command("remove", lambda patience: self._remove(held, keys, patience))

    def clear(self) -> None:
        """StorageError if the server does not do it; some of the pages may be gone."""
        with self._call("") as _:
            self._command("clear", self._clear)

    def stats(self) -> dict[str, int]:
        """STAT_NAMES and what a remote store adds: see above; is_open (0, 1), of the breaker."""
        with self._lock:
            counters = dict(self._counters)
        return counters | {"is_open": int(self.breaker.state is not BreakerState.CLOSED)}

    def close(self) -> None:
        if self._calls.close():
            self._release()

    @abstractmethod
    def _exists(self, parts: Sequence[RemotePart], patience: Patience) -> None:
        """As read_into() and write_from() below, of one part with a key or more: what they did not
        come to is left False, and CallOver or EngineError ends it early.
        """

    @abstractmethod
    def _read(self, parts: Sequence[RemotePart], patience: Patience) -> None: ...

    @abstractmethod
    def _write(self, parts: Sequence[RemotePart], patience: Patience) -> None:
        """A page of a part is found no sooner than those of the parts before."""

    def _write_missing(self, parts: Sequence[RemotePart], patience: Patience) -> None:
        """_write(), for which no page travels that is there already."""
        self._exists(parts, patience)
        lacking = [_lacking(part) for part in parts]
        try:
            if wanted := [part for _, part in lacking if part.keys]:
                self._write(wanted, patience)
        finally:
            for part, (positions, written) in zip(parts, lacking, strict=True):
                for at, i in enumerate(positions):
                    part.results[i], part.are_new[i] = written.results[at], written.are_new[at]

    @abstractmethod
    def _remove(self, pool: RemotePool, keys: Sequence[bytes], patience: Patience) -> int: ...

    @abstractmethod
    def _clear(self, patience: Patience) -> int: ...

    @abstractmethod
    def _release(self) -> None: ...

    def _count(self, name: str, number: int = 1) -> None:
        with self._lock:
            self._counters[name] += number

    @contextmanager
    def _call(self, pool: str) -> Iterator[RemotePool | None]:
        """The pool, if there is one; close() waits for the end of the block."""
        with self._calls.one():
            yield self._pools.get(pool)

    def _parts(self, batches: Sequence[PoolBatch], access: str = "") -> list[RemotePart]:
        """One for each; that of a pool that is not ours has none of the pages."""
        parts = []
        for batch in batches:
            pool = self._pools.get(batch.pool)
            if pool is None:
                parts.append(RemotePart.of(_UNKNOWN, PoolBatch(batch.pool, batch.keys)))
                continue
            if access:
                check_pages(*batch, pool.page_bytes, access)
            parts.append(RemotePart.of(pool, batch))
        return parts

    def _attempt(
        self,
        limit: Limit | None,
        parts: Sequence[RemotePart],
        work: Callable[[Sequence[RemotePart], Patience], None],
    ) -> None:
        """Whatever ends it early is counted, and told to the breaker."""
        wanted = [part for part in parts if part.keys and _is_known(part)]
        if not wanted:
            return
        ticket = self.breaker.admit()
        if ticket is None:
            self._count("num_skipped_calls")
            return
        patience = Patience(limit, self._timeout_s)
        verdict = Verdict.UNKNOWN
        try:
            patience.left_s()  # CallOver where it is over before it begins
            work(wanted, patience)
            verdict = Verdict.GOOD
        except CallOver:
            self._count("num_late_calls")
            if patience.is_server_late:
                verdict = Verdict.BAD
                self.last_error = f"no answer within {self._timeout_s} s"
        except EngineError as error:
            self._count("num_failed_calls")
            verdict = Verdict.BAD
            self.last_error = str(error)
        except StoreTimeout as error:  # the engine holds the caller's pages: that has to be told
            self._count("num_late_calls")
            self.last_error = str(error)
            verdict = Verdict.BAD
            raise
        finally:
            self.breaker.settle(ticket, verdict)

    def _command(self, name: str, work: Callable[[Patience], int]) -> int:
        try:
            return work(Patience(None, self._timeout_s))
        except CallOver:
            reason = f"no answer within {self._timeout_s} s"
        except EngineError as error:
            reason = str(error)
        self._count("num_failed_calls")
        raise StorageError(f"store at {self.where}: {name}: {reason}")


def _is_known(part: RemotePart) -> bool:
    return part.pool is not _UNKNOWN


def _lacking(part: RemotePart) -> tuple[list[int], RemotePart]:
    """What is not there of it, and where that stands."""
    some = [i for i, is_there in enumerate(part.results) if not is_there]
    batch = PoolBatch(part.pool.name, part.keys, part.pages)
    return some, RemotePart.of(part.pool, part_of(batch, some))
