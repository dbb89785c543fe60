"""Which copy last read and last wrote each page of a pool, so that none is reused under a copy."""

from __future__ import annotations

import threading
from collections.abc import Iterable
from enum import Enum
from typing import Any

import numpy as np
import numpy.typing as npt

from hicache_ext.ticket import Ticket, drain

Ids = npt.NDArray[Any]

MIN_BEFORE_CLEANING = 16  # batches; asking each whether it is done is what cleaning costs


class Access(Enum):
    """What is about to happen to a page, or happens to it in a copy."""

    READ = "read"  # waits for the copies that write the page
    WRITE = "write"  # waits for those that write or read it


class Hazards:
    """The last-read and last-write ticket of every page of one pool.

    Pages of one copy share a batch, a serial number; a batch of reads is all the copies that read
    the page since it was last written. Only batches that run are remembered, so that asking costs
    next to nothing once everything is done. The tickets of running copies are kept alive here.

    Two threads may ask at the same time; that nothing is started between asking and recording is
    the caller's care (one thread, the control plane's, starts copies). Memory: 16 bytes per page.
    """

    def __init__(self, num_pages: int) -> None:
        self._last_read = np.zeros(num_pages, np.int64)  # serial numbers; 0 = nobody
        self._last_write = np.zeros(num_pages, np.int64)
        self._batches: dict[int, tuple[Ticket, ...]] = {}
        self._num_batches = 0
        self._num_before_cleaning = MIN_BEFORE_CLEANING
        self._lock = threading.Lock()

    def running(self, page_ids: Iterable[int] | None, access: Access) -> list[Ticket]:
        """The copies that an access to these pages has to wait for.

        page_ids: None = every page of the pool, where the ids are known to the GPU alone. Ids out
        of range, holes among them, are passed over: whoever copies tells of them.
        """
        with self._lock:
            if not self._batches:
                return []
            ids = self._checked(page_ids)
            serials = self._last_write[ids]
            if access is Access.WRITE:
                serials = np.concatenate((serials, self._last_read[ids]))
            found: dict[int, Ticket] = {}  # a copy may be in several batches
            for serial in np.unique(serials):
                found |= {id(ticket): ticket for ticket in self._still_running(int(serial))}
            return list(found.values())

    def wait(self, page_ids: Iterable[int] | None, access: Access, stream: Any = None) -> None:
        """Blocks until the access is safe; with a stream, lets that stream wait instead.

        A copy that failed has stopped, too: its own ticket tells of it.
        """
        tickets = self.running(page_ids, access)
        if stream is None:
            drain(tickets)
        else:
            for ticket in tickets:
                ticket.wait(stream)

    def record(self, page_ids: Iterable[int] | None, access: Access, ticket: Ticket) -> None:
        """The copy of `ticket`, which waited for running(page_ids, access), accesses the pages."""
        with self._lock:
            if ticket.query():
                return
            if len(self._batches) >= self._num_before_cleaning:
                self._forget_done()
            ids = self._checked(page_ids)
            if access is Access.WRITE:  # it comes after whoever read or wrote the page before
                self._last_write[ids] = self._add((ticket,))
                return
            # Reads do not wait for each other: the new one joins those that still run.
            before = self._last_read[ids]
            for serial in np.unique(before):
                others = self._still_running(int(serial))
                self._last_read[ids[before == serial]] = self._add((*others, ticket))

    def pages(self) -> list[int]:
        """Pages that a running copy reads or writes, ascending; O(pages). For messages."""
        with self._lock:
            self._forget_done()
            serials = list(self._batches)
            busy = np.isin(self._last_read, serials) | np.isin(self._last_write, serials)
            return [int(page_id) for page_id in np.flatnonzero(busy)]

    def _add(self, tickets: tuple[Ticket, ...]) -> int:
        self._num_batches += 1
        self._batches[self._num_batches] = tickets
        return self._num_batches

    def _still_running(self, serial: int) -> tuple[Ticket, ...]:
        """The copies of a batch that are not done; a batch that is done is forgotten."""
        tickets = tuple(ticket for ticket in self._batches.get(serial, ()) if not ticket.query())
        if not tickets:
            self._batches.pop(serial, None)
        return tickets

    def _forget_done(self) -> None:
        for serial in list(self._batches):
            self._still_running(serial)
        self._num_before_cleaning = max(MIN_BEFORE_CLEANING, 2 * len(self._batches))

    def _checked(self, page_ids: Iterable[int] | None) -> Ids:
        num_pages = len(self._last_read)
        if page_ids is None:
            return np.arange(num_pages)
        ids = np.asarray(page_ids if isinstance(page_ids, np.ndarray) else list(page_ids), np.int64)
        return ids[(ids >= 0) & (ids < num_pages)]
