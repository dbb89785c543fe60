"""Which pages the segments of a folder hold, as their indexes say."""

import errno
import os
import re
from collections.abc import Iterable

from .index import FollowedIndex, Kind, PageFormat, Place, Record

_INDEX = re.compile(r"([0-9a-f]{16})\.index")
# Trouble of this process or moment (too many open files, no memory), not of the file.
PASSING_ERRNOS = {errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EINTR}


class Catalog:
    """All live pages of a folder, whichever process wrote them. Not thread-safe.

    Two writers may have stored the same page: both places are kept, and both die at a removal.
    """

    def __init__(self, dir_fd: int, page_format: PageFormat) -> None:
        self.num_corrupt_records = 0
        self._dir_fd = dir_fd
        self._format = page_format
        self._indexes: dict[int, FollowedIndex] = {}
        self._num_slots: dict[int, int] = {}  # of a segment, that any index has ever named
        self._pages: dict[bytes, tuple[Record, ...]] = {}
        self._dead: set[Place] = set()  # tombstones that were read before the page's own record

    def __len__(self) -> int:
        return len(self._pages)

    def __contains__(self, key: bytes) -> bool:
        return key in self._pages

    def copies(self, key: bytes) -> tuple[Record, ...]:
        """Every place that has this page."""
        return self._pages.get(key, ())

    def follow(self) -> None:
        """Catch up with what was appended, created and cleared, by any process."""
        names = map(_INDEX.fullmatch, os.listdir(self._dir_fd))
        segments = {int(name[1], 16) for name in names if name}
        for segment in self._indexes.keys() - segments:
            self._forget(segment)
        for segment in sorted(segments):
            try:
                self.follow_one(segment)
            except FileNotFoundError:
                self._forget(segment)
            except OSError as error:
                if error.errno not in PASSING_ERRNOS:
                    self._indexes[segment].give_up()

    def follow_one(self, segment: int) -> None:
        """Catch up with this index; OSError if it cannot be read."""
        index = self._indexes.setdefault(segment, FollowedIndex(self._format, segment))
        for record in index.news(self._dir_fd):
            if record is None:
                self.num_corrupt_records += 1
                continue
            owner, slot = record.place
            self._num_slots[owner] = max(self.num_slots(owner), slot + 1)
            if record.kind is Kind.TOMBSTONE:
                self._bury(record)
            elif record.place in self._dead:
                self._dead.discard(record.place)
            else:
                self._pages[record.key] = (*self.copies(record.key), record)

    def num_slots(self, segment: int) -> int:
        """The slots that may not be used again. An index that lost its end to a power failure does
        not name all of them, but a tombstone elsewhere may.
        """
        return self._num_slots.get(segment, 0)

    def growing(self, max_slots: int) -> list[int]:
        """The segments that have room and that a writer may go on with."""
        sound = [segment for segment, index in self._indexes.items() if index.is_sound]
        return sorted(segment for segment in sound if self.num_slots(segment) < max_slots)

    def drop(self, records: Iterable[Record]) -> None:
        """Forget these places, whatever the disk says."""
        for record in records:
            rest = tuple(r for r in self.copies(record.key) if r.place != record.place)
            if rest:
                self._pages[record.key] = rest
            else:
                self._pages.pop(record.key, None)

    def _bury(self, tombstone: Record) -> None:
        if any(record.place == tombstone.place for record in self.copies(tombstone.key)):
            self.drop([tombstone])
        else:
            self._dead.add(tombstone.place)

    def _forget(self, segment: int) -> None:
        """The segment was cleared."""
        self._indexes.pop(segment, None)
        self._num_slots.pop(segment, None)
        self._dead = {place for place in self._dead if place.segment != segment}
        pages = self._pages.values()
        self.drop([r for records in pages for r in records if r.place.segment == segment])
