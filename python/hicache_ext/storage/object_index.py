"""What lies in which object. A batch of pages is some data objects and one small index object.

    <pool>/data/<batch>/<chunk>   pages one after the other, nothing else
    <pool>/index/<batch>.pages    which they are: [head | record ... | checksum]
    <pool>/index/<batch>.dead     places that are dead from then on, likewise

The index comes after the data, so what it names is there. Places are used once, so it does not
matter in which order the indexes of several writers are read.
"""

import hashlib
import os
import re
import struct
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from ..keys import page_checksum
from .remote import RemotePool

FORMAT_VERSION = 1
_MAGIC = b"HICOBJIX"
_HEAD = struct.Struct("<8sIIQ32s")  # magic, version, number of records, page bytes, namespace
_PAGE = struct.Struct("<32s16sII")  # key, checksum of the page, chunk, slot
_DEAD = struct.Struct("<33sxxxII")  # batch, chunk, slot
_CHECK_BYTES = 16
_NAME = re.compile(r"(?P<batch>[0-9a-f]{16}-[0-9a-f]{16})\.(?P<kind>pages|dead)")


class Place(NamedTuple):
    """Where a page lies."""

    batch: str
    chunk: int
    slot: int

    @property
    def data_object(self) -> tuple[str, int]:
        return self.batch, self.chunk


class Entry(NamedTuple):
    """A page of a batch, as its index has it."""

    key: bytes
    checksum: bytes
    place: Place


def new_batch() -> str:
    """A name that nobody else takes; later ones sort behind as far as clocks agree."""
    return f"{time.time_ns():016x}-{os.urandom(8).hex()}"


class IndexFormat:
    """The bytes of the index objects of one pool."""

    def __init__(self, pool: RemotePool) -> None:
        self._owner = hashlib.sha256(f"{pool.name}/{pool.digest}".encode()).digest()
        self._page_bytes = pool.page_bytes

    def pack_pages(self, entries: Sequence[Entry]) -> bytes:
        """All of one batch, whose name is that of the object."""
        return self._pack(
            [_PAGE.pack(e.key, e.checksum, e.place.chunk, e.place.slot) for e in entries]
        )

    def pack_dead(self, places: Sequence[Place]) -> bytes:
        return self._pack([_DEAD.pack(p.batch.encode(), p.chunk, p.slot) for p in places])

    def unpack_pages(self, batch: str, data: bytes) -> list[Entry] | None:
        """None for anything that was not packed so, be it another version or another pool."""
        records = self._unpack(data, _PAGE)
        if records is None:
            return None
        return [Entry(key, check, Place(batch, chunk, slot)) for key, check, chunk, slot in records]

    def unpack_dead(self, data: bytes) -> list[Place] | None:
        """Likewise."""
        records = self._unpack(data, _DEAD)
        if records is None:
            return None
        return [Place(batch.decode("latin-1"), chunk, slot) for batch, chunk, slot in records]

    def _pack(self, records: list[bytes]) -> bytes:
        head = _HEAD.pack(_MAGIC, FORMAT_VERSION, len(records), self._page_bytes, self._owner)
        body = head + b"".join(records)
        return body + page_checksum(self._owner, memoryview(body))

    def _unpack(self, data: bytes, record: struct.Struct) -> list[tuple[Any, ...]] | None:
        num_records, rest = divmod(len(data) - _HEAD.size - _CHECK_BYTES, record.size)
        if num_records < 0 or rest:
            return None
        body, check = data[:-_CHECK_BYTES], data[-_CHECK_BYTES:]
        head = _HEAD.pack(_MAGIC, FORMAT_VERSION, num_records, self._page_bytes, self._owner)
        if body[: _HEAD.size] != head or page_checksum(self._owner, memoryview(body)) != check:
            return None
        return list(record.iter_unpack(body[_HEAD.size :]))


class ObjectIndex:
    """The pages of one pool that are known. Not thread-safe."""

    def __init__(self) -> None:
        self.names: set[str] = set()  # index objects that were read, or were of no use
        self._places: dict[bytes, tuple[Entry, ...]] = {}  # the first one is read
        self._batches: dict[str, list[Entry]] = {}
        self._dead: set[Place] = set()
        self._num_live: Counter[tuple[str, int]] = Counter()  # pages of a data object

    def __len__(self) -> int:
        return len(self._places)

    def find(self, key: bytes) -> Entry | None:
        entries = self._places.get(key)
        return entries[0] if entries else None

    def find_all(self, keys: Iterable[bytes]) -> list[Entry]:
        """Every copy: writers that did not know of each other may have made several."""
        return [entry for key in set(keys) for entry in self._places.get(key, ())]

    def num_live(self, data_object: tuple[str, int]) -> int:
        """How many of its pages are not dead."""
        return self._num_live[data_object]

    def add(self, name: str, entries: Sequence[Entry]) -> None:
        """What the index object of a batch says."""
        if name in self.names:
            return
        self.names.add(name)
        alive = [entry for entry in entries if entry.place not in self._dead]
        self._batches[batch_of(name)] = alive
        for entry in alive:
            self._places[entry.key] = (*self._places.get(entry.key, ()), entry)
            self._num_live[entry.place.data_object] += 1

    def bury(self, places: Iterable[Place]) -> list[tuple[str, int]]:
        """Forget these, also where they come to be known later; the data objects that have lost
        their last page by it.
        """
        gone = set(places) - self._dead
        self._dead |= gone
        emptied = []
        for batch in {place.batch for place in gone}:
            entries = self._batches.get(batch, [])
            self._batches[batch] = [entry for entry in entries if entry.place not in gone]
            emptied += self._forget([entry for entry in entries if entry.place in gone])
        return emptied

    def lose(self, data_object: tuple[str, int]) -> None:
        """It is not there any more: somebody has cleared or removed its pages."""
        entries = self._batches.get(data_object[0], [])
        self.bury([entry.place for entry in entries if entry.place.data_object == data_object])

    def drop(self, name: str) -> None:
        """An index object that is not there any more."""
        self.names.discard(name)
        if name.endswith(".pages"):
            self._forget(self._batches.pop(batch_of(name), []))

    def _forget(self, entries: Iterable[Entry]) -> list[tuple[str, int]]:
        emptied = []
        for key, _, place in entries:
            left = tuple(entry for entry in self._places[key] if entry.place != place)
            if left:
                self._places[key] = left
            else:
                del self._places[key]
            self._num_live[place.data_object] -= 1
            if not self._num_live[place.data_object]:
                del self._num_live[place.data_object]
                emptied.append(place.data_object)
        return emptied


def is_index_name(name: str) -> bool:
    """One of ours; anything may lie in a bucket."""
    return _NAME.fullmatch(name) is not None


def batch_of(name: str) -> str:
    """`name` without its kind."""
    return name.partition(".")[0]
