"""A batch of pages from slots into buffers: adjacent slots in one call, each page verified."""

import os
from collections.abc import Iterable, Sequence
from itertools import groupby
from typing import NamedTuple

from .index import PageFormat, Record
from .segment import PIECE_BYTES, open_pages


class Want(NamedTuple):
    """A page that is to be read."""

    record: Record
    position: int  # in the batch
    page: memoryview


# A page that was not delivered: with what the read said, or None where it is not itself.
Failure = tuple[Record, OSError | None]


def read_pages(
    dir_fd: int, page_format: PageFormat, wants: Sequence[Want]
) -> tuple[list[int], list[Failure]]:
    """The positions of the pages that are there now and genuine, and what happened to the others.

    On one thread: it is the kernel that reads ahead, while the piece before is verified. Threads
    that share a file keep it from that; a cold batch then took twice as long.
    """
    batch = _BatchRead(page_format)
    ordered = sorted(wants, key=lambda want: want.record.place)
    for segment, some in groupby(ordered, lambda want: want.record.place.segment):
        try:
            fd = open_pages(dir_fd, segment)
        except OSError as error:
            batch.failures += [(want.record, error) for want in some]
            continue
        try:
            for piece in _cut(some, max(1, PIECE_BYTES // page_format.slot_bytes)):
                batch.read(fd, piece)
        finally:
            os.close(fd)
    return batch.positions, batch.failures


def _cut(wants: Iterable[Want], most: int) -> list[list[Want]]:
    """Runs of adjacent slots, at most so many in one."""
    pieces: list[list[Want]] = []
    for want in wants:
        slot = want.record.place.slot
        if pieces and len(pieces[-1]) < most and pieces[-1][-1].record.place.slot == slot - 1:
            pieces[-1].append(want)
        else:
            pieces.append([want])
    return pieces


class _BatchRead:
    def __init__(self, page_format: PageFormat) -> None:
        self.positions: list[int] = []
        self.failures: list[Failure] = []
        self._format = page_format
        self._gap = bytearray(page_format.slot_bytes - page_format.page_bytes)  # not looked at

    def read(self, fd: int, piece: Sequence[Want]) -> None:
        buffers = [part for want in piece for part in (want.page, self._gap) if len(part)]
        slot_bytes, page_bytes = self._format.slot_bytes, self._format.page_bytes
        error = None
        try:
            num_bytes = os.preadv(fd, buffers, piece[0].record.place.slot * slot_bytes)
        except OSError as failed:
            error, num_bytes = failed, 0
        if num_bytes < (len(piece) - 1) * slot_bytes + page_bytes:
            if len(piece) > 1:  # which of them is it?
                for want in piece:
                    self.read(fd, [want])
            else:
                self.failures.append((piece[0].record, error))
            return
        for want in piece:
            record = want.record
            if self._format.checksum(record.key, want.page) == record.checksum:
                self.positions.append(want.position)
            else:
                self.failures.append((record, None))
