"""The index of a segment: which page lies in which slot. Append-only: [header | record ...].

A PAGE record follows its page's bytes. A TOMBSTONE stands in the index of whoever dropped the page
and names the place that is dead from then on; places are used once. So it does not matter in which
order the indexes of several writers are read.
"""

import errno
import hashlib
import os
import struct
from enum import IntEnum
from typing import NamedTuple

from ..errors import StorageError
from ..keys import checksum_seed

FORMAT_VERSION = 2
SLOT_ALIGN_BYTES = 4096
HEADER_BYTES = 64
RECORD_BYTES = 72
_MAGIC = b"HICINDEX"
_HEADER = struct.Struct(
    "<8sIIQQ32s"
)  # magic, version, record bytes, page bytes, segment, namespace
_BODY = struct.Struct("<IIQ32s16s")  # kind, slot, segment, key, checksum of the page
_RECORD = struct.Struct("<64sQ")  # body, checksum of the body


class Kind(IntEnum):
    """What a record says about its place."""

    PAGE = 1
    TOMBSTONE = 2


_KINDS = {int(kind): kind for kind in Kind}


class Place(NamedTuple):
    """Where a page lies."""

    segment: int  # names the two files
    slot: int


class Record(NamedTuple):
    """One line of an index."""

    kind: Kind
    place: Place
    key: bytes
    checksum: bytes  # of the page, 16 bytes


class PageFormat:
    """How the pages of one pool and namespace are laid out and checked."""

    def __init__(self, pool: str, namespace_digest: str, page_bytes: int) -> None:
        try:
            from xxhash import xxh3_64_intdigest, xxh3_128_digest
        except ImportError as error:
            raise StorageError(
                "LocalStore needs xxhash for its checksums: pip install 'hicache_ext[storage]'"
            ) from error
        self._digest = xxh3_128_digest  # releases the GIL for large pages
        self._check = xxh3_64_intdigest
        self._owner = hashlib.sha256(f"{pool}/{namespace_digest}".encode()).digest()
        self.page_bytes = page_bytes
        self.slot_bytes = -(-page_bytes // SLOT_ALIGN_BYTES) * SLOT_ALIGN_BYTES

    def checksum(self, key: bytes, page: memoryview) -> bytes:
        """As hicache_ext.staging has it, too."""
        return self._digest(page, seed=checksum_seed(key))

    def header(self, segment: int) -> bytes:
        """What the index of this segment begins with."""
        sizes = FORMAT_VERSION, RECORD_BYTES, self.page_bytes
        return _HEADER.pack(_MAGIC, *sizes, segment, self._owner)

    def pack(self, segment: int, records: list[Record]) -> bytes:
        """`records` as the index of `segment` has them: they are worth nothing in another one."""
        seed = self._check(self.header(segment))
        parts = []
        for kind, place, key, checksum in records:
            body = _BODY.pack(kind, place.slot, place.segment, key, checksum)
            parts.append(_RECORD.pack(body, self._check(body, seed=seed)))
        return b"".join(parts)

    def unpack(self, segment: int, data: bytes) -> list[Record | None]:
        """The inverse; None for each record that is not what was written."""
        seed = self._check(self.header(segment))
        records: list[Record | None] = []
        for body, check in _RECORD.iter_unpack(data):
            number, slot, of_segment, key, checksum = _BODY.unpack(body)
            kind = _KINDS.get(number)
            if kind is None or check != self._check(body, seed=seed):
                records.append(None)
            else:
                records.append(Record(kind, Place(of_segment, slot), key, checksum))
        return records


def index_name(segment: int) -> str:
    """The file that says what is in the segment."""
    return f"{segment:016x}.index"


def whole_records(file_bytes: int) -> int:
    """The length of an index without the record at its end that is not all there."""
    return max(0, file_bytes - (file_bytes - HEADER_BYTES) % RECORD_BYTES)


class FollowedIndex:
    """A reader of an index that may still grow."""

    def __init__(self, page_format: PageFormat, segment: int) -> None:
        self.is_sound = False  # begins as ours do, and has no corrupt record: to be gone on with
        self._format = page_format
        self._segment = segment
        self._num_read_bytes = 0
        self._is_foreign = False

    def news(self, dir_fd: int) -> list[Record | None]:
        """The records appended since the last call, None for a corrupt one; OSError if unreadable.

        An index that does not begin as ours does is one corrupt record.
        """
        name = index_name(self._segment)
        file_bytes = os.stat(name, dir_fd=dir_fd, follow_symlinks=False).st_size
        end = whole_records(file_bytes)
        if self._is_foreign or file_bytes < HEADER_BYTES or end <= self._num_read_bytes:
            return []
        data = _read(dir_fd, name, self._num_read_bytes, end)
        if not self._num_read_bytes:
            header, data = data[:HEADER_BYTES], data[HEADER_BYTES:]
            if header != self._format.header(self._segment):
                self.give_up()
                return [None]
            self.is_sound = True
        self._num_read_bytes = end
        records = self._format.unpack(self._segment, data)
        self.is_sound = self.is_sound and None not in records
        return records

    def give_up(self) -> None:
        """Something else lies in the index's place: it is not looked at again."""
        self._is_foreign, self.is_sound = True, False


def _read(dir_fd: int, name: str, begin: int, end: int) -> bytes:
    fd = os.open(name, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW, dir_fd=dir_fd)
    try:
        data = os.pread(fd, end - begin, begin)
    finally:
        os.close(fd)
    if len(data) < end - begin:
        raise OSError(errno.EIO, f"{name} ends at byte {begin + len(data)}, expected {end}")
    return data
