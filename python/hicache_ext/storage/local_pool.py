"""The pages of one pool of a LocalStore: finds, reads, writes and drops them."""

import contextlib
import os
import threading
from collections import Counter
from collections.abc import Mapping, Sequence

from .batch_read import Want, read_pages
from .catalog import PASSING_ERRNOS, Catalog
from .index import Kind, PageFormat, Place, Record
from .segment import (
    Durability,
    SegmentWriter,
    adopt_segment,
    collect_litter,
    create_segment,
    max_slots,
    remove_segment,
    segments_in,
)


class LocalPool:
    """Every method is thread-safe. `dir_fd` is the namespace folder, owned by this object.

    The first write takes a segment: one that a store which is gone has left with room, or a new
    one. One thread at a time appends; reads do not wait for it.
    """

    def __init__(self, dir_fd: int, page_format: PageFormat) -> None:
        self.format = page_format
        self._dir_fd = dir_fd
        self._counters: Counter[str] = Counter()
        self._catalog = Catalog(dir_fd, page_format)
        self._lock = threading.Lock()  # of the catalog and the counters
        self._append_lock = threading.Lock()  # of the writer; taken before the other
        self._writer: SegmentWriter | None = None
        collect_litter(dir_fd)
        self._catalog.follow()

    def count(self, name: str, number: int = 1) -> None:
        with self._lock:
            self._counters[name] += number

    def totals(self) -> dict[str, int]:
        with self._lock:
            num_corrupt = self._counters["num_corrupt_pages"] + self._catalog.num_corrupt_records
            totals = {"num_pages": len(self._catalog), "num_corrupt_pages": num_corrupt}
            return {**self._counters, **totals}

    def has(self, keys: Sequence[bytes]) -> list[bool]:
        """From memory; what is not there may be in another process's segment by now."""
        with self._lock:
            if any(key not in self._catalog for key in keys):
                self._catalog.follow()
            return [key in self._catalog for key in keys]

    def read(self, keys: Sequence[bytes], pages: Sequence[memoryview]) -> list[bool]:
        """Read and verify; a page that is damaged, and not just removed, is dropped."""
        with self._lock:
            self._catalog.follow()
            found = [self._catalog.copies(key)[:1] for key in keys]
        wants = [Want(r, i, pages[i]) for i, records in enumerate(found) for r in records]
        positions, failures = read_pages(self._dir_fd, self.format, wants)
        if failures:
            self._drop_damaged({record.place: (record, error) for record, error in failures})
        results = [False] * len(keys)
        for position in positions:
            results[position] = True
        return results

    def write(
        self, items: Mapping[bytes, memoryview], durability: Durability
    ) -> tuple[set[bytes], OSError | None]:
        """Store what is not there; which keys are there now, and what kept the others out."""
        with self._append_lock:
            with self._lock:
                self._catalog.follow()
                new = [key for key in items if key not in self._catalog]
            stored = set(items.keys() - set(new))
            while new:
                pages = [items[key] for key in new]
                try:
                    num_written = self._writer_with_room(durability).write(new, pages, durability)
                except OSError as error:
                    return stored, error
                stored.update(new[:num_written])
                new = new[num_written:]
                with self._lock:
                    self._follow_own()
                    self._counters["num_written_pages"] += num_written
                    self._counters["written_bytes"] += num_written * self.format.page_bytes
            return stored, None

    def drop(self, keys: Sequence[bytes]) -> int:
        """Forget these pages, in every process; returns how many were there."""
        with self._append_lock:
            with self._lock:
                self._catalog.follow()
                held = [copies for key in set(keys) if (copies := self._catalog.copies(key))]
            self._bury([record for copies in held for record in copies])
        return len(held)

    def clear(self) -> None:
        """Remove every segment; OSError if that is refused."""
        with self._append_lock:
            self._let_go()
            try:
                for segment in segments_in(self._dir_fd):
                    remove_segment(self._dir_fd, segment)
            finally:
                with self._lock:
                    self._catalog.follow()

    def close(self) -> None:
        self._let_go()
        os.close(self._dir_fd)

    def _drop_damaged(self, failures: Mapping[Place, tuple[Record, OSError | None]]) -> None:
        damaged = []
        with self._append_lock:
            with self._lock:
                self._catalog.follow()  # another process may have removed it before we read it
                for record, error in failures.values():
                    if record not in self._catalog.copies(record.key):
                        continue
                    self._counters["num_read_errors" if error else "num_corrupt_pages"] += 1
                    if error is None or error.errno not in PASSING_ERRNOS:
                        damaged.append(record)  # a link, a bad sector: never this one again
            self._bury(damaged)

    def _bury(self, records: Sequence[Record]) -> None:
        """With the append lock held. A disk that takes no tombstone forgets that we dropped it."""
        if not records:
            return
        tombstones = [Record(Kind.TOMBSTONE, r.place, r.key, bytes(16)) for r in records]
        try:
            self._writer_with_room(Durability.NONE).append(tombstones)
        except OSError:
            self.count("num_write_errors")
        with self._lock:
            self._follow_own()
            self._catalog.drop(records)

    def _writer_with_room(self, durability: Durability) -> SegmentWriter:
        writer = self._writer
        if writer is not None and writer.num_free and not writer.is_cleared:
            return writer
        self._let_go()
        self._writer = writer = self._adopt() or create_segment(self._dir_fd, self.format)
        if durability is Durability.PAGE:
            os.fsync(self._dir_fd)
        return writer

    def _adopt(self) -> SegmentWriter | None:
        most = max_slots(self.format)
        with self._lock:
            segments = self._catalog.growing(most)
        for segment in segments:
            writer = adopt_segment(self._dir_fd, self.format, segment)
            if writer is None:
                continue
            try:
                with self._lock:  # its last writer may have appended until a moment ago
                    self._catalog.follow_one(segment)
                    writer.num_slots = self._catalog.num_slots(segment)
                    still_good = segment in self._catalog.growing(most)
            except BaseException:
                writer.close()
                raise
            if still_good:
                return writer
            writer.close()
        return None

    def _follow_own(self) -> None:
        """What we append is known as everything else is: from the index."""
        if self._writer is not None:
            with contextlib.suppress(OSError):  # cleared, or no descriptor: follow() finds out
                self._catalog.follow_one(self._writer.segment)

    def _let_go(self) -> None:
        if self._writer is not None:
            self._writer.close()
            self._writer = None
