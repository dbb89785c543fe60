"""The files of a segment: pages in slots of 4 KiB multiples, and the index of what they are.

<segment>.pages    slot 0, slot 1, ...; a slot is written once
<segment>.index    see index.py; locked (flock) while a store appends to the two
"""

import fcntl
import os
import re
import secrets
from collections.abc import Sequence
from enum import Enum

from .index import HEADER_BYTES, Kind, PageFormat, Place, Record, index_name, whole_records

SEGMENT_BYTES = 256 << 20
# What one system call moves: small, so that a page is verified while it is in the processor's
# cache (measured on 39 MB cold: 22 ms, with 1 MiB 25 ms). A slot is at least 4 KiB: that is far
# below the limit of 1024 buffers for a call.
PIECE_BYTES = 512 << 10
_SEGMENT_FILE = re.compile(r"([0-9a-f]{16})\.(index|pages)")
_OPEN_READ = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW
_OPEN_INDEX = os.O_RDWR | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW
_OPEN_PAGES = os.O_WRONLY | os.O_CLOEXEC | os.O_NOFOLLOW
_NEW = os.O_CREAT | os.O_EXCL


class Durability(Enum):
    """When a written page survives a power loss; a killed process loses nothing in either mode."""

    NONE = "none"  # when the kernel gets round to it; a torn page is found by its checksum
    PAGE = "page"  # before write_from returns True


def pages_name(segment: int) -> str:
    """The file with the pages of the segment."""
    return f"{segment:016x}.pages"


def open_pages(dir_fd: int, segment: int) -> int:
    """A descriptor to read pages from; FileNotFoundError, or ELOOP where a link lies there."""
    return os.open(pages_name(segment), _OPEN_READ, dir_fd=dir_fd)


class SegmentWriter:
    """The one store that appends to a segment, until close(). Not thread-safe."""

    def __init__(self, page_format: PageFormat, segment: int, index_fd: int, pages_fd: int) -> None:
        self.segment = segment
        self.num_slots = 0  # used so far: who adopts a segment says how many
        self._format = page_format
        self._index_fd = index_fd
        self._pages_fd = pages_fd

    @property
    def num_free(self) -> int:
        """Slots that are left."""
        return max_slots(self._format) - self.num_slots

    @property
    def is_cleared(self) -> bool:
        """Whether the files were removed: what is appended now is lost."""
        return os.fstat(self._index_fd).st_nlink == 0

    def write(
        self, keys: Sequence[bytes], pages: Sequence[memoryview], durability: Durability
    ) -> int:
        """Stores the first pages and returns how many: fewer than given where the segment is full
        or a write fails, at least one. OSError if not even the first can be stored.

        The index follows the bytes: whoever finds a record finds the page.
        """
        num_pages = min(len(pages), self.num_free)
        records: list[Record] = []
        step = max(1, PIECE_BYTES // self._format.slot_bytes)
        for begin in range(0, num_pages, step):
            piece = slice(begin, min(begin + step, num_pages))
            try:
                self._write_slots(pages[piece])
            except OSError:
                if not records:
                    raise
                break  # tried again, it fails again: then it is told
            for key, page in zip(keys[piece], pages[piece], strict=True):
                place = Place(self.segment, self.num_slots)
                records.append(Record(Kind.PAGE, place, key, self._format.checksum(key, page)))
                self.num_slots += 1
        if durability is Durability.PAGE:
            os.fdatasync(self._pages_fd)
        self.append(records)
        if durability is Durability.PAGE:
            os.fdatasync(self._index_fd)
        return len(records)

    def append(self, records: list[Record]) -> None:
        """Adds to the index. After an OSError some may be there, all of them whole."""
        file_bytes = os.fstat(self._index_fd).st_size
        if file_bytes != whole_records(file_bytes):  # an append that failed, or a writer that died
            os.ftruncate(self._index_fd, whole_records(file_bytes))
        _write_all(self._index_fd, self._format.pack(self.segment, records))

    def close(self) -> None:
        os.close(self._pages_fd)
        os.close(self._index_fd)

    def _write_slots(self, pages: Sequence[memoryview]) -> None:
        offset = self.num_slots * self._format.slot_bytes
        padding = bytes(self._format.slot_bytes - self._format.page_bytes)
        buffers = [part for page in pages for part in (page, padding) if len(part)]
        num_bytes = os.pwritev(self._pages_fd, buffers, offset)
        if num_bytes < len(pages) * self._format.slot_bytes:  # rare: the disk is full, or nearly
            rest = memoryview(b"".join(buffers))[num_bytes:]
            while rest:
                offset += num_bytes
                num_bytes = os.pwrite(self._pages_fd, rest, offset)
                rest = rest[num_bytes:]


def _write_all(fd: int, data: bytes) -> None:
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(fd, rest) :]


def max_slots(page_format: PageFormat) -> int:
    """How many pages a segment takes before the next one is begun."""
    return max(1, SEGMENT_BYTES // page_format.slot_bytes)


def create_segment(dir_fd: int, page_format: PageFormat) -> SegmentWriter:
    """A new segment under a name that was never used. OSError if the file system refuses."""
    while True:
        segment = secrets.randbits(64)
        fd = os.open(index_name(segment), _OPEN_INDEX | _NEW, 0o600, dir_fd=dir_fd)
        try:
            if _lock(fd):  # else another store takes the empty file for a dead writer's
                pages_fd = os.open(pages_name(segment), _OPEN_PAGES | _NEW, 0o600, dir_fd=dir_fd)
                try:
                    _write_all(fd, page_format.header(segment))
                except BaseException:
                    os.close(pages_fd)
                    raise
                return SegmentWriter(page_format, segment, fd, pages_fd)
        except BaseException:
            remove_segment(dir_fd, segment)
            os.close(fd)
            raise
        os.close(fd)


def adopt_segment(dir_fd: int, page_format: PageFormat, segment: int) -> SegmentWriter | None:
    """Go on with a segment whose writer is gone; None if it lives or the files cannot be used.

    A disk that is at fault says so when a new segment is created instead.
    """
    try:
        fd = os.open(index_name(segment), _OPEN_INDEX, dir_fd=dir_fd)
    except OSError:
        return None
    try:
        if _lock(fd):
            pages_fd = os.open(pages_name(segment), _OPEN_PAGES, dir_fd=dir_fd)
            return SegmentWriter(page_format, segment, fd, pages_fd)
    except OSError:
        pass
    os.close(fd)
    return None


def _lock(fd: int) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return os.fstat(fd).st_nlink == 1


def segments_in(dir_fd: int) -> list[int]:
    """Every segment of which a file is there."""
    names = map(_SEGMENT_FILE.fullmatch, os.listdir(dir_fd))
    return sorted({int(name[1], 16) for name in names if name})


def remove_segment(dir_fd: int, segment: int) -> None:
    """Removes the index, then the pages. Who reads or writes them finds out by itself."""
    for name in (index_name(segment), pages_name(segment)):
        try:
            os.unlink(name, dir_fd=dir_fd)
        except FileNotFoundError:
            continue


def collect_litter(dir_fd: int) -> None:
    """Removes segments whose writer died before the header, or whose remover died half way."""
    for segment in segments_in(dir_fd):
        try:
            fd = os.open(index_name(segment), _OPEN_INDEX, dir_fd=dir_fd)
        except FileNotFoundError:
            remove_segment(dir_fd, segment)  # an index comes first and goes first
            continue
        except OSError:
            continue  # not a file: it is not followed, and not ours to remove
        try:
            if os.fstat(fd).st_size < HEADER_BYTES and _lock(fd):
                remove_segment(dir_fd, segment)
        finally:
            os.close(fd)
