"""The ledger of one pool: which page is free, reserved, in I/O or attached. Pure Python."""

import operator
from array import array
from collections.abc import Iterable
from enum import IntEnum

from .errors import CapacityError, PageIndexError


class PageState(IntEnum):
    """What a page is doing: exactly one of four; the four counts sum to the capacity."""

    FREE = 0  # in the free list; its bytes mean nothing
    RESERVED = 1  # handed out; the holder may write it
    IO = 2  # a copy or a store reads into it or from it: it must not be freed
    ATTACHED = 3  # owned by the tree; immutable


# What move() allows. FREE is entered by free() and left by alloc() alone; a move to the state that
# a page is already in would hide a page that is attached or submitted twice; what the tree owns is
# never written.
LEGAL_MOVES: dict[PageState, frozenset[PageState]] = {
    PageState.FREE: frozenset(),
    PageState.RESERVED: frozenset({PageState.IO, PageState.ATTACHED}),
    PageState.IO: frozenset({PageState.RESERVED, PageState.ATTACHED}),
    PageState.ATTACHED: frozenset({PageState.RESERVED}),
}
# A page in I/O is being written by somebody else: freeing it would hand it to a second owner under
# the copy.
FREEABLE = frozenset({PageState.RESERVED, PageState.ATTACHED})


class PageAllocator:
    """Hands out page ids 0..num_pages-1 of one pool and knows the state of each.

    The free list is a FIFO ring. Against lowest-index-first (a heap) it costs O(1) instead of O(log
    n) per page with slices at C speed; a page that was just freed rests as long as possible before
    it is written again; and ids that were freed together come out together, so runs of neighbours
    stay runs. The same calls give the same ids on every rank. Memory: 9 bytes per page. Not
    thread-safe: the control plane's thread owns it.

    Every call checks its whole list before it changes anything: an error leaves the ledger as it
    was.
    """

    def __init__(self, num_pages: int, name: str) -> None:
        """num_pages >= 0; `name` is the pool's name in messages. Raises CapacityError."""
        if num_pages < 0:
            raise CapacityError(f"pool {name!r}: num_pages={num_pages} is negative")
        self.name = name
        self._states = bytearray(num_pages)  # PageState.FREE == 0
        self._ring = array(
            "q", range(num_pages)
        )  # free ids: _num_free of them from _head, circular
        self._head = 0
        self._counts = [num_pages, 0, 0, 0]

    @property
    def capacity(self) -> int:
        """Number of pages, whatever their state."""
        return len(self._states)

    @property
    def num_free(self) -> int:
        """Number of pages that alloc() can hand out now."""
        return self._counts[PageState.FREE]

    def counts(self) -> dict[PageState, int]:
        """Number of pages in each state."""
        return {state: self._counts[state] for state in PageState}

    def state(self, page_id: int) -> PageState:
        """The state of one page. Raises PageIndexError for an id that is not of this pool."""
        return PageState(self._states[self._checked_ids((page_id,), "state")[0]])

    def pages_in(self, state: PageState) -> list[int]:
        """All page ids in `state`, ascending; O(capacity). For checks and messages."""
        return [page_id for page_id, at in enumerate(self._states) if at == state]

    def alloc(self, num_pages: int, state: PageState = PageState.RESERVED) -> list[int] | None:
        """Take `num_pages` free pages into `state`; None, and none taken, if they do not fit.

        O(num_pages). The caller owns the ids until free() or until a tree takes them over. Raises
        CapacityError for a negative number and for state FREE.
        """
        if num_pages < 0 or state == PageState.FREE:
            raise CapacityError(
                f"pool {self.name!r}: alloc({num_pages}, {PageState(state).name}): "
                "the number must not be negative nor the state FREE"
            )
        if num_pages > self.num_free:
            return None
        stop = self._head + num_pages
        ids = self._ring[self._head : stop].tolist()
        if stop >= self.capacity > 0:
            stop -= self.capacity
            ids += self._ring[:stop].tolist()
        self._head = stop
        self._set(ids, PageState(state))
        self._counts[PageState.FREE] -= num_pages
        self._counts[state] += num_pages
        return ids

    def free(self, page_ids: Iterable[int]) -> None:
        """Give RESERVED or ATTACHED pages back. O(number of ids).

        Raises CapacityError for a page that is FREE (double free) or in IO, PageIndexError for an
        id that is foreign or given twice; nothing is changed then.
        """
        ids = self._checked_ids(page_ids, "free")
        tally = self._tally(ids, "free", FREEABLE)
        tail = (self._head + self.num_free) % max(self.capacity, 1)
        num_first = min(len(ids), self.capacity - tail)
        self._ring[tail : tail + num_first] = array("q", ids[:num_first])
        self._ring[: len(ids) - num_first] = array("q", ids[num_first:])
        self._set(ids, PageState.FREE)
        self._apply(tally, PageState.FREE, len(ids))

    def move(self, page_ids: Iterable[int], to: PageState) -> None:
        """Move pages that are handed out to another state (LEGAL_MOVES). O(number of ids).

        Raises CapacityError for a move that is not legal, PageIndexError for an id that is foreign
        or given twice; nothing is changed then.
        """
        to = PageState(to)
        ids = self._checked_ids(page_ids, "move")
        allowed = frozenset(state for state, targets in LEGAL_MOVES.items() if to in targets)
        tally = self._tally(ids, f"move to {to.name}", allowed)
        self._set(ids, to)
        self._apply(tally, to, len(ids))

    def check_integrity(self) -> None:
        """Recount everything; O(capacity). Raises CapacityError with all violations found."""
        found = []
        recounted = [self._states.count(state) for state in PageState]
        if recounted != self._counts:
            found.append(
                f"counts {self._counts} (FREE, RESERVED, IO, ATTACHED), the states say {recounted}"
            )
        if sum(self._counts) != self.capacity:
            found.append(
                f"counts {self._counts} sum to {sum(self._counts)}, capacity {self.capacity}"
            )
        listed = self._free_list()
        if len(set(listed)) != len(listed):
            found.append("the free list holds a page twice")
        not_free = [page_id for page_id in listed if self._states[page_id] != PageState.FREE]
        if not_free:
            found.append(f"the free list holds pages that are not FREE: {not_free[:8]}")
        if found:
            raise CapacityError(f"pool {self.name!r}: {'; '.join(found)}")

    def _free_list(self) -> list[int]:
        stop = self._head + self.num_free
        return (
            self._ring[self._head : stop].tolist()
            + self._ring[: max(0, stop - self.capacity)].tolist()
        )

    def _checked_ids(self, page_ids: Iterable[int], what: str) -> list[int]:
        """The ids as ints, in range and given once; else PageIndexError with position and value."""
        try:
            ids = list(map(operator.index, page_ids))
        except TypeError as error:
            raise PageIndexError(
                f"pool {self.name!r}: {what}: page ids must be integers: {error}"
            ) from None
        if ids and (min(ids) < 0 or max(ids) >= self.capacity):
            position = next(i for i, page_id in enumerate(ids) if not 0 <= page_id < self.capacity)
            raise PageIndexError(
                f"pool {self.name!r}: {what}: position {position}: page {ids[position]} "
                f"is not in 0..{self.capacity - 1}"
            )
        if len(set(ids)) != len(ids):
            first = {page_id: i for i, page_id in reversed(list(enumerate(ids)))}
            position = next(i for i, page_id in enumerate(ids) if first[page_id] != i)
            raise PageIndexError(
                f"pool {self.name!r}: {what}: position {position}: "
                f"page {ids[position]} is given twice"
            )
        return ids

    def _tally(self, ids: list[int], what: str, allowed: frozenset[PageState]) -> list[int]:
        """How many of `ids` are in each state; CapacityError if one is where it must not be."""
        at = bytes(map(self._states.__getitem__, ids))
        tally = [at.count(state) for state in PageState]
        for state in PageState:
            if tally[state] and state not in allowed:
                position = at.index(state)
                double = " (double free)" if what == "free" and state == PageState.FREE else ""
                legal = ", ".join(legal.name for legal in sorted(allowed)) or "none"
                raise CapacityError(
                    f"pool {self.name!r}: {what}: position {position}: page {ids[position]} "
                    f"is {state.name}{double}; allowed are {legal}"
                )
        return tally

    def _apply(self, tally: list[int], to: PageState, num_moved: int) -> None:
        for state in PageState:
            self._counts[state] -= tally[state]
        self._counts[to] += num_moved

    def _set(self, ids: list[int], to: PageState) -> None:
        states, value = self._states, int(to)
        for page_id in ids:
            states[page_id] = value
