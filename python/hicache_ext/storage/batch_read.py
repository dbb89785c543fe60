"""One batch of pages from slots into buffers: adjacent slots in one call, each page verified."""

import os
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from .index import PageFormat, Record
from .segment import PIECE_BYTES, open_pages


class Want(NamedTuple):
    """A page that is to be read."""

    record: Record
    position: int  # in the batch
    page: memoryview


class BatchRead:
    """Threads share it: each runs `work`. What happened is in `read` and `failures`.

    `failures` has an OSError for a page that could not be read, None for one that is not itself.
    """

    def __init__(self, dir_fd: int, page_format: PageFormat, wants: Sequence[Want]) -> None:
        """Opens what has to be; close() it."""
        self.read: list[int] = []  # positions
        self.failures: list[tuple[Record, OSError | None]] = []
        self._format = page_format
        self._gap = bytearray(
            page_format.slot_bytes - page_format.page_bytes
        )  # whatever lies there
        self._fds: dict[int, int] = {}
        ordered = sorted(wants, key=lambda want: want.record.place)
        for segment in {want.record.place.segment for want in ordered}:
            try:
                self._fds[segment] = open_pages(dir_fd, segment)
            except OSError as error:
                lost = [w.record for w in ordered if w.record.place.segment == segment]
                self.failures += [(record, error) for record in lost]
        self.pieces = self._cut([w for w in ordered if w.record.place.segment in self._fds])

    def work(self, turns: Iterator[int]) -> None:
        """Read pieces[i] for each i that `turns` yields."""
        for i in turns:
            self._read(self.pieces[i])

    def close(self) -> None:
        for fd in self._fds.values():
            os.close(fd)

    def _cut(self, wants: Sequence[Want]) -> list[list[Want]]:
        most = max(1, PIECE_BYTES // self._format.slot_bytes)
        pieces: list[list[Want]] = []
        for want in wants:
            segment, slot = want.record.place
            if pieces and len(pieces[-1]) < most:
                last = pieces[-1][-1].record.place
                if last == (segment, slot - 1):
                    pieces[-1].append(want)
                    continue
            pieces.append([want])
        return pieces

    def _read(self, piece: Sequence[Want]) -> None:
        segment, slot = piece[0].record.place
        buffers = [part for want in piece for part in (want.page, self._gap) if len(part)]
        slot_bytes, page_bytes = self._format.slot_bytes, self._format.page_bytes
        error = None
        try:
            num_bytes = os.preadv(self._fds[segment], buffers, slot * slot_bytes)
        except OSError as failed:
            error, num_bytes = failed, 0
        if num_bytes < (len(piece) - 1) * slot_bytes + page_bytes:
            if len(piece) > 1:  # which of them is it?
                for want in piece:
                    self._read([want])
            else:
                self.failures.append((piece[0].record, error))
            return
        for want in piece:
            record = want.record
            if self._format.checksum(record.key, want.page) == record.checksum:
                self.read.append(want.position)
            else:
                self.failures.append((record, None))
