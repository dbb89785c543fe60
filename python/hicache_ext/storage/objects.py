"""ObjectStore: pages in S3 and what is compatible with it, several packed into one object."""

import functools
import itertools
import re
import time
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from ..errors import StorageError
from ..keys import page_checksum
from .breaker import CircuitBreaker
from .namespace import StoreNamespace
from .object_batch import Batch, Buffers, Packed, pack
from .object_index import Entry, ObjectIndex, Place, is_index_name, new_batch
from .object_pool import PoolState, Want
from .object_requests import Absent, Requests
from .protocol import Capabilities
from .remote import RemotePart, RemotePool, RemoteStore
from .remote_call import EngineError, Patience

OPEN_TIMEOUT_S = 60.0  # to list and read every index object
NO_RANGES = "non-partial response"  # obstore's word for a server that sends 200 in place of 206


class ObjectStore(RemoteStore):
    """Objects of `object_bytes` or less, each with the pages of one write, and index objects that
    say what is where (object_index.py). Needs the extra `s3`.

    Every process has the index in memory: it is read at open and, at most every `refresh_s`, when
    a key is asked for that it does not know. A page is found by others when write_from has
    returned. Removed pages leave a tombstone, and their object is deleted with the last of them.
    Data of a write that was cut off stays until clear().
    """

    capabilities = Capabilities(
        zero_copy=False, atomic_batch=False, quota=False, persistent=True, shared=True
    )

    def __init__(
        self,
        objects: Any,
        namespaces: Mapping[str, StoreNamespace],
        page_bytes: Mapping[str, int],
        *,
        prefix: str = "hicache",
        object_bytes: int = 4 << 20,
        num_requests: int = 8,
        refresh_s: float = 2.0,
        timeout_s: float = 10.0,
        breaker: CircuitBreaker | None = None,
    ) -> None:
        """`objects`: open_s3(), or any other store of obstore.store, with its own timeouts.

        StorageError if the bucket cannot be listed: it is down, not there, or does not let us in.
        """
        where = f"{type(objects).__name__}/{prefix}"
        super().__init__(where, namespaces, page_bytes, timeout_s=timeout_s, breaker=breaker)
        if object_bytes < 1 or num_requests < 1 or refresh_s < 0:
            raise StorageError(
                f"object_bytes={object_bytes}, num_requests={num_requests}, "
                f"refresh_s={refresh_s}: too small"
            )
        self._counters["num_foreign_indexes"] = 0  # of another version, or damaged: not read
        self.has_ranges = True  # False once a server has sent the whole object in place of a part
        self._object_bytes = object_bytes
        self._num_requests = num_requests
        self._refresh_s = refresh_s
        self._requests = Requests(objects, num_requests)
        self._states = {
            name: PoolState(pool, f"{prefix}/{pool.digest}/{_safe(name)}")
            for name, pool in self._pools.items()
        }
        try:
            self._command("open", self._open)
        except BaseException:
            self._requests.close()
            raise

    def stats(self) -> dict[str, int]:
        """As every RemoteStore, and has_ranges (0, 1)."""
        num_pages = 0
        for state in self._states.values():
            with state.lock:
                num_pages += len(state.index)
        return super().stats() | {"num_pages": num_pages, "has_ranges": int(self.has_ranges)}

    def _open(self, patience: Patience) -> int:
        patience = Patience(None, OPEN_TIMEOUT_S)
        for state in self._states.values():
            self._refresh(state, patience)
        return 0

    def _exists(self, parts: Sequence[RemotePart], patience: Patience) -> None:
        for part in parts:
            found = self._find(self._states[part.pool.name], part.keys, patience)
            part.results[:] = [entry is not None for entry in found]

    def _read(self, parts: Sequence[RemotePart], patience: Patience) -> None:
        for part in parts:
            self._read_part(part, patience)

    def _read_part(self, part: RemotePart, patience: Patience) -> None:
        state = self._states[part.pool.name]
        found = self._find(state, part.keys, patience)
        broken: set[Place] = set()

        fetch = functools.partial(self._fetch, state)
        for want, future in self._requests.map(fetch, state.wants(found), patience):
            try:
                pages = future.result()
            except Absent:
                with state.lock:
                    state.index.lose(want.data_object)
                continue
            for (position, entry), page in zip(want.pages, pages, strict=True):
                if page_checksum(entry.key, page) == entry.checksum:
                    part.pages[position][:] = page
                    part.results[position] = True
                else:
                    broken.add(entry.place)
        if broken:
            self._count("num_corrupt_pages", len(broken))
            self._bury(state, broken, patience)

    def _write(self, parts: Sequence[RemotePart], patience: Patience) -> None:
        for part in parts:
            self._write_part(part, patience)

    def _write_part(self, part: RemotePart, patience: Patience) -> None:
        state = self._states[part.pool.name]
        found = state.find(part.keys)
        stored = {key for key, entry in zip(part.keys, found, strict=True) if entry}
        new: dict[bytes, memoryview] = {}
        first = {}
        for i, (key, page) in enumerate(zip(part.keys, part.pages, strict=True)):
            if key not in stored and key not in new:
                new[key], first[key] = page, i  # the first value stays
        try:
            self._store(state, list(new.items()), stored, patience)
        finally:
            part.results[:] = [key in stored for key in part.keys]
            for i in first.values():
                part.are_new[i] = part.results[i]

    def _remove(self, pool: RemotePool, keys: Sequence[bytes], patience: Patience) -> int:
        state = self._states[pool.name]
        self._refresh(state, patience)
        with state.lock:
            entries = state.index.find_all(keys)
        if entries:
            self._bury(state, [entry.place for entry in entries], patience)
        return len({entry.key for entry in entries})

    def _clear(self, patience: Patience) -> int:
        patience = Patience(None, OPEN_TIMEOUT_S)
        for state in self._states.values():
            for folder in (f"{state.folder}/index", f"{state.folder}/data"):
                paths = [f"{folder}/{name}" for name in self._list(folder, patience)]
                self._requests.run(functools.partial(self._requests.delete, paths), patience)
            with state.lock:
                state.index = ObjectIndex()
        return 0

    def _release(self) -> None:
        self._requests.close()

    def _find(
        self, state: PoolState, keys: Sequence[bytes], patience: Patience
    ) -> list[Entry | None]:
        """Of the index, which is read again where it lacks one and is old."""
        found = state.find(keys)
        if None in found and state.age_s >= self._refresh_s:
            self._refresh(state, patience)
            found = state.find(keys)
        return found

    async def _fetch(self, state: PoolState, want: Want) -> list[memoryview]:
        """The pages of one data object, or what is in their place; a short one is no error."""
        path, size = state.data_path(want.data_object), state.page_bytes
        starts = [entry.place.slot * size for _, entry in want.pages]
        if self.has_ranges and not want.is_most:
            try:
                return await self._requests.get_ranges(path, starts, size)
            except Absent:
                raise
            except EngineError as error:  # be it that the object is too short
                if NO_RANGES in str(error):
                    self.has_ranges = False
        whole = await self._requests.get(path)
        return [whole[start : start + size] for start in starts]

    def _store(
        self,
        state: PoolState,
        items: Sequence[tuple[bytes, memoryview]],
        stored: set[bytes],
        patience: Patience,
    ) -> None:
        """`stored` gets the keys that are there then. After a failure no more is sent, what was
        sent is published, and then it is raised.
        """
        failures: list[EngineError] = []
        num_in_object = max(1, self._object_bytes // state.page_bytes)
        buffers = Buffers()
        packed = pack(items, num_in_object, self._num_requests, buffers)
        wanted = itertools.takewhile(lambda _: not failures, packed)

        async def put(packed: Packed) -> list[Entry]:
            """What is published by it: with the last object of a batch goes the index."""
            batch, entries, data = packed
            try:
                if not failures:
                    await self._requests.put(state.data_path(entries[0].place.data_object), data)
                    buffers.give_back(data)  # not after a failure: who knows
                    batch.written += entries
            except EngineError as error:
                failures.append(error)
            batch.num_left -= 1
            return [] if batch.num_left else await publish(batch)

        async def publish(batch: Batch) -> list[Entry]:
            index = state.format.pack_pages(batch.written)
            try:
                if batch.written:
                    await self._requests.put(state.index_path(batch.index_name), index)
            except EngineError as error:
                failures.append(error)
                return []
            return batch.written

        batches: dict[str, Batch] = {}
        for (batch, _, _), future in self._requests.map(put, wanted, patience):
            batches[batch.name] = batch
            self._acknowledge(state, batch, future.result(), stored)
        for batch in batches.values():
            if batch.num_left:  # objects that were never sent
                entries = self._requests.run(functools.partial(publish, batch), patience)
                self._acknowledge(state, batch, entries, stored)
        if failures:
            raise failures[0]

    def _acknowledge(
        self, state: PoolState, batch: Batch, published: Sequence[Entry], stored: set[bytes]
    ) -> None:
        if not published:
            return
        with state.lock:
            state.index.add(batch.index_name, published)
        stored |= {entry.key for entry in published}
        self._count("num_written_pages", len(published))
        self._count("written_bytes", len(published) * state.page_bytes)

    def _bury(self, state: PoolState, places: Collection[Place], patience: Patience) -> None:
        """A tombstone first; then objects of which nothing is left are deleted."""
        name, data = f"{new_batch()}.dead", state.format.pack_dead(list(places))
        self._requests.run(lambda: self._requests.put(state.index_path(name), data), patience)
        with state.lock:
            state.index.names.add(name)
            emptied = [state.data_path(data_object) for data_object in state.index.bury(places)]
        if emptied:
            self._requests.run(lambda: self._requests.delete(emptied), patience)

    def _refresh(self, state: PoolState, patience: Patience) -> None:
        """Read the index objects that are new, and forget those that are gone."""
        wanted_at_s = time.monotonic()
        while not state.refreshing.acquire(timeout=patience.wait_s()):
            pass
        try:
            if state.refreshed_at_s > wanted_at_s:
                return  # by the call we waited for
            begin_s = time.monotonic()
            with state.lock:
                known = set(state.index.names)
            names = set(filter(is_index_name, self._list(f"{state.folder}/index", patience)))

            async def get(name: str) -> bytes:
                return bytes(await self._requests.get(state.index_path(name)))

            for name, future in self._requests.map(get, sorted(names - known), patience):
                try:
                    data = future.result()
                except Absent:
                    continue  # cleared meanwhile
                if not state.learn(name, data):
                    self._count("num_foreign_indexes")
            with state.lock:
                for name in known - names:
                    state.index.drop(name)
            state.refreshed_at_s = begin_s
        finally:
            state.refreshing.release()

    def _list(self, folder: str, patience: Patience) -> list[str]:
        return self._requests.run(lambda: self._requests.names(folder), patience)


def _safe(pool: str) -> str:
    """Another name for each pool, of characters that may stand in a path."""
    return re.sub("[^A-Za-z0-9-]", lambda match: f"_{ord(match[0]):x}_", pool)
