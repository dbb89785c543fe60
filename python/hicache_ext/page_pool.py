"""What pools of every tier share: pages in one buffer, and the ledger of what each is doing."""

from __future__ import annotations

import operator
from abc import ABC, abstractmethod
from collections.abc import Iterable
from typing import Any, NoReturn

from .allocator import PageAllocator, PageState
from .errors import LayoutError, LifetimeError, PageIndexError
from .hazards import Access, Hazards
from .layout import LayoutSpec, PagedBuffer
from .tier import Tier


class PagePool(ABC):
    """`spec.num_pages` pages in one buffer, and the allocator that says what each is doing.

    The pool owns its memory until close(); `buffer` is what copies take. After close() everything
    but `name`, `tier`, `spec` and `allocator` raises LifetimeError.
    """

    def __init__(self, spec: LayoutSpec, *, name: str, tier: Tier) -> None:
        self.name = name
        self.tier = tier
        self.spec = spec
        self.allocator = PageAllocator(spec.num_pages, name)
        self.hazards = Hazards(spec.num_pages)
        self._buffer: PagedBuffer | None = None
        # Asked for every page of a read or write; the spec computes them anew each time.
        self._is_page_contiguous = spec.is_page_contiguous
        self._page_bytes = spec.page_bytes

    @property
    def is_closed(self) -> bool:
        """Whether close() was called (and did not refuse)."""
        return self._buffer is None

    @property
    def buffer(self) -> PagedBuffer:
        """Array and layout of the whole pool, as copy_pages takes them. LifetimeError if closed.

        Whoever keeps it keeps the memory: a HostPool refuses to close meanwhile.
        """
        if self._buffer is None:
            raise LifetimeError(f"pool {self.name!r} ({self.tier.name}) is closed")
        return self._buffer

    @property
    def num_free(self) -> int:
        """Number of pages that alloc() can hand out now."""
        return self.allocator.num_free

    @property
    def capacity(self) -> int:
        """Number of pages, whatever their state."""
        return self.allocator.capacity

    def alloc(
        self, num_pages: int, state: PageState = PageState.RESERVED, *, stream: Any = None
    ) -> list[int] | None:
        """PageAllocator.alloc: page ids, or None if they do not fit. LifetimeError if closed.

        A page may be freed while a copy still uses it. It is handed out again when that copy is
        done: this waits for it, or with a stream lets the stream wait, on which alone the pages may
        be used then. Pages rest in the free list as long as possible, so that this is rare. (Giving
        out other pages first would depend on timing, and ranks would part.)
        """
        page_ids = self._open().allocator.alloc(num_pages, state)
        if page_ids:
            try:
                self.hazards.wait(page_ids, Access.WRITE, stream)
            except BaseException:
                self._take_back(page_ids, state)
                raise
        return page_ids

    def free(self, page_ids: Iterable[int]) -> None:
        """PageAllocator.free. LifetimeError if closed. Does not wait for copies: alloc() does."""
        self._open().allocator.free(page_ids)

    def wait_for_copies(
        self, page_ids: Iterable[int] | None, access: Access, stream: Any = None
    ) -> None:
        """Before a kernel or a thread of the caller's own reads or writes pages: blocks until no
        copy is in its way; with a stream, lets that stream wait instead. None = every page."""
        self._open().hazards.wait(page_ids, access, stream)

    def move(self, page_ids: Iterable[int], to: PageState) -> None:
        """PageAllocator.move. LifetimeError if closed."""
        self._open().allocator.move(page_ids, to)

    def page_view(self, page_id: int) -> memoryview:
        """The bytes of one page: writable, format "B", spec.page_bytes long, no copy.

        LayoutError if pages are not contiguous in this layout or not in host memory,
        PageIndexError for a foreign id, LifetimeError if closed. The page's state is not asked.
        """
        if not self._open()._is_page_contiguous:
            raise LayoutError(f"pool {self.name!r}: a {self.spec.name} page is not contiguous")
        page_id = operator.index(page_id)
        if not 0 <= page_id < self.capacity:
            self._reject(page_id, position=0, what="page_view")
        start = page_id * self.spec.stride_page
        return self._memory_view()[start : start + self._page_bytes]

    def poison(self, page_ids: Iterable[int], byte: int = 0xFF) -> None:
        """Overwrite every byte of these pages, whatever the layout; for tests.

        PageIndexError for a foreign id, and then nothing is written.
        """
        pages = self._strided_pages()
        ids = list(page_ids)
        for position, page_id in enumerate(ids):
            if not 0 <= page_id < self.capacity:
                self._reject(page_id, position, "poison")
        for page_id in ids:
            pages[page_id] = byte

    def close(self) -> None:
        """Give the memory back; a second close does nothing.

        LifetimeError, and nothing is changed, while pages are in I/O or under a copy, which would
        write into memory that is somebody else's by then.
        """
        num_io = self.allocator.counts()[PageState.IO]
        if not self.is_closed and num_io:
            pages = self.allocator.pages_in(PageState.IO)
            raise LifetimeError(
                f"pool {self.name!r}: close: {num_io} pages are in I/O: {pages[:8]}"
            )
        if not self.is_closed and (busy := self.hazards.pages()):
            raise LifetimeError(
                f"pool {self.name!r}: close: copies read or write {len(busy)} pages: {busy[:8]}"
            )
        if not self.is_closed:
            self._close()

    def _take_back(self, page_ids: list[int], state: PageState) -> None:
        if state == PageState.IO:  # from which nothing is freed
            self.allocator.move(page_ids, PageState.RESERVED)
        self.allocator.free(page_ids)

    def _open(self) -> PagePool:
        _ = self.buffer  # raises if closed
        return self

    def _reject(self, page_id: int, position: int, what: str) -> NoReturn:
        raise PageIndexError(
            f"pool {self.name!r}: {what}: position {position}: page {page_id} "
            f"is not in 0..{self.capacity - 1}"
        )

    def _axes(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Extents and byte strides of [page, layer, kv, group, token, head, byte]."""
        s = self.spec
        heads = s.num_heads // s.num_groups
        shape = (s.num_pages, s.num_layers, s.num_kv, s.num_groups, s.page_size, heads)
        strides = (s.stride_page, s.stride_layer, s.stride_kv, s.stride_group)
        return (*shape, s.head_bytes), (*strides, s.stride_token, s.stride_head, 1)

    @abstractmethod
    def _close(self) -> None: ...

    @abstractmethod
    def _memory_view(self) -> memoryview: ...

    @abstractmethod
    def _strided_pages(self) -> Any: ...
