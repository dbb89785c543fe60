"""MooncakeStore: pages in the memory of a Mooncake cluster, for every machine that reaches it."""

import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from typing import Any

from ..errors import StorageError, StoreTimeout
from .breaker import CircuitBreaker
from .lanes import Lane
from .mooncake_batch import PageBatch
from .mooncake_client import MooncakeClient, load_engine
from .mooncake_codes import OWN_STATS, Code
from .mooncake_run import EngineRun
from .namespace import StoreNamespace
from .protocol import Capabilities
from .remote import RemotePart, RemotePool, RemoteStore, dealt
from .remote_call import EngineError, Patience

logger = logging.getLogger(__name__)

_NUM_NAMES = 4096  # of a call that only asks: some milliseconds


class MooncakeStore(RemoteStore):
    """A page is one object: its bytes, and behind them their checksum, seeded by the key. Both move
    straight between the caller's page, a trailer of the call and a storage node.

    Pages in memory that was not given to client.memory.add() are registered for each call: cheap on
    TCP, slow on RDMA (docs/mooncake.md). The cluster forgets pages by itself, the least recently
    read first, and all of them when its master ends. `num_pages` of stats() is what this store
    wrote and did not remove.
    """

    capabilities = Capabilities(
        zero_copy=True, atomic_batch=False, quota=True, persistent=False, shared=True
    )

    def __init__(
        self,
        client: MooncakeClient,
        namespaces: Mapping[str, StoreNamespace],
        page_bytes: Mapping[str, int],
        *,
        num_replicas: int = 1,
        timeout_s: float = 30.0,
        breaker: CircuitBreaker | None = None,
    ) -> None:
        """Of each page `num_replicas` copies are asked for, on different nodes; the engine makes
        fewer where nodes are few or full, which is counted and logged. The client is the caller's:
        to be closed after the stores that use it. `breaker` may be shared with its other stores.
        """
        super().__init__(
            client.master,
            namespaces,
            page_bytes,
            timeout_s=timeout_s,
            breaker=breaker or CircuitBreaker(num_failures=2),
        )
        if num_replicas < 1:
            raise StorageError(f"num_replicas={num_replicas}, expected at least 1")
        self._counters |= dict.fromkeys(OWN_STATS, 0)
        self._client = client
        self._engine = client.engine
        self._put_config = load_engine().ReplicateConfig()
        self._put_config.replica_num = num_replicas

    def _exists(self, parts: Sequence[RemotePart], patience: Patience) -> None:
        names = [name for part in parts for name in _names(part.pool, part.keys)]
        codes = self._ask(self._engine.batch_is_exist, names, patience)
        for part, told in zip(parts, dealt(parts, codes), strict=True):
            part.results[:] = [code == 1 for code in told]

    def _read(self, parts: Sequence[RemotePart], patience: Patience) -> None:
        batch = self._batch(parts)
        moves = self._client.moves
        run = EngineRun(self._client, patience, batch.begin_read, batch.end_read, moves)
        try:
            run.go(batch.chunks(batch.firsts, patience))
        finally:
            for first, other in batch.repeats():  # in one call the engine fills one of them only
                if batch.results[first]:
                    batch.pages[other][:] = batch.pages[first]
                    batch.results[other] = True
            batch.tell(parts)
            self._count_all(batch.counters)
        if batch.corrupt:  # or the first value would stay for ever
            self._forget(self._ask(self._remove_call, batch.corrupt, patience))

    def _write(self, parts: Sequence[RemotePart], patience: Patience) -> None:
        batch = self._batch(parts)
        names = [batch.names[position] for position in batch.firsts]
        there = self._ask(self._engine.batch_is_exist, names, patience)
        new = [at for at, code in zip(batch.firsts, there, strict=True) if code == 0]
        for at, code in zip(batch.firsts, there, strict=True):
            batch.results[at] = code == 1
        begin = partial(batch.begin_write, self._put_config)
        run = EngineRun(self._client, patience, begin, batch.end_write, self._client.moves)
        try:
            run.go(batch.chunks(new, patience))
        finally:
            self._count_all({**batch.counters, "num_pages": batch.counters["num_written_pages"]})
            for first, other in batch.repeats():
                batch.results[other] = batch.results[first]
            batch.tell(parts)
        self._check_replicas([batch.names[at] for at in new if batch.results[at]], patience)

    def _write_missing(self, parts: Sequence[RemotePart], patience: Patience) -> None:
        self._write(parts, patience)  # asks by itself

    def _batch(self, parts: Sequence[RemotePart]) -> PageBatch:
        names = [name for part in parts for name in _names(part.pool, part.keys)]
        return PageBatch(self._client, names, parts)

    def _remove(self, pool: RemotePool, keys: Sequence[bytes], patience: Patience) -> int:
        return self._forget(self._ask(self._remove_call, _names(pool, set(keys)), patience))

    def _clear(self, patience: Patience) -> int:
        """Also what other processes wrote."""

        def remove_all(patterns: list[str]) -> list[int]:
            return [self._engine.remove_by_regex(pattern, True) for pattern in patterns]

        patterns = [f"^{pool.digest}/" for pool in self._pools.values()]
        codes = self._ask(remove_all, patterns, patience)
        if min(codes, default=0) < 0:
            raise EngineError(f"codes {codes}")
        with self._lock:
            self._counters["num_pages"] = 0
        return sum(codes)

    def _release(self) -> None:
        """The client may have other stores."""

    def _ask(
        self, question: Callable[[list[str]], list[int]], names: list[str], patience: Patience
    ) -> list[int]:
        """The answer for each name. No page of the caller is held by it."""
        answers = [int(Code.NO_ANSWER)] * len(names)

        def begin(start: int, lane: Lane) -> Callable[[], list[int]]:
            return partial(question, names[start : start + _NUM_NAMES])

        def end(start: int, lane: Lane, codes: list[int]) -> None:
            answers[start : start + len(codes)] = codes

        try:
            EngineRun(self._client, patience, begin, end).go(range(0, len(names), _NUM_NAMES))
        except StoreTimeout as error:
            raise EngineError(str(error)) from None
        return answers

    def _remove_call(self, names: list[str]) -> list[int]:
        codes: list[int] = self._engine.batch_remove(names, True)
        return codes

    def _forget(self, codes: list[int]) -> int:
        """How many were removed, by the codes of it."""
        num_removed = codes.count(0)
        with self._lock:  # some may be another store's
            self._counters["num_pages"] = max(0, self._counters["num_pages"] - num_removed)
        return num_removed

    def _check_replicas(self, names: list[str], patience: Patience) -> None:
        """The engine stores fewer copies without a word."""
        wanted = self._put_config.replica_num
        if wanted == 1 or not names:
            return
        counts = self._ask(partial(_num_replicas, self._engine), names, patience)
        num_short = sum(0 <= count < wanted for count in counts)
        if num_short and not self._counters["num_under_replicated_pages"]:
            logger.warning("%s: %d pages in fewer than %d copies", self.where, num_short, wanted)
        self._count("num_under_replicated_pages", num_short)

    def _count_all(self, counters: Mapping[str, int]) -> None:
        for name, number in counters.items():
            self._count(name, number)


def _names(pool: RemotePool, keys: Collection[bytes]) -> list[str]:
    prefix = f"{pool.digest}/{pool.name}/"
    return [prefix + key.hex() for key in keys]


def _num_replicas(engine: Any, names: list[str]) -> list[int]:
    """How many whole copies each object has in memory; NO_ANSWER if the master does not say."""
    complete = load_engine().ReplicaStatus.COMPLETE
    replicas = engine.batch_get_replica_desc(names)
    return [
        sum(r.status == complete and r.is_memory_replica() for r in replicas[name])
        if name in replicas
        else int(Code.NO_ANSWER)
        for name in names
    ]
