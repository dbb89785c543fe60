"""The pool of tier L2: a host buffer, pinned where there is a GPU."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from .errors import CapacityError, LayoutError, LifetimeError
from .host_buffer import HostBuffer, slot_stride
from .layout import LayoutSpec, PagedBuffer
from .page_pool import PagePool
from .tier import Tier


class HostPool(PagePool):
    """Tier L2 in a HostBuffer, which the pool owns.

    close() refuses (LifetimeError that counts them; nothing is changed) while views live: page
    views, arrays over `buffer.array`, and `buffer` itself where somebody kept it. Refusing beats
    unmapping late: hundreds of gigabytes that a forgotten view holds are told, not lost.
    """

    def __init__(
        self, spec: LayoutSpec, *, name: str, memory: HostBuffer | None = None, **options: Any
    ) -> None:
        """memory: a buffer at least host_bytes(spec) long, for instance one of another process; it
        is the pool's from now on. Without it the pool makes its own with `options`, which are those
        of HostBuffer (sharing, huge_pages, numa_node, num_threads, pin, pin_api).

        Raises what HostBuffer does, CapacityError for memory that is too small, LayoutError for
        memory and options.
        """
        num_bytes = host_bytes(spec)
        if memory is None:
            # Before the ledger, which of a pool that cannot be had may itself be too large.
            # stride_page: what a page has in one piece, which must not lie in two registrations.
            options = {"object_bytes": spec.stride_page, **options}
            memory = HostBuffer(num_bytes, name=f"pool {name!r}", **options)
        elif options:
            raise LayoutError(f"pool {name!r}: {sorted(options)} are of memory that it would make")
        if memory.num_bytes < num_bytes:
            raise CapacityError(
                f"pool {name!r} needs {num_bytes} bytes, its memory {memory.name!r} has "
                f"{memory.num_bytes}"
            )
        super().__init__(spec, name=name, tier=Tier.HOST)
        self.memory = memory
        self._buffer = self._paged_buffer()

    @property
    def is_pinned(self) -> bool:
        """Whether the GPU reaches the memory by DMA; `pinning` says in words why or why not."""
        return self.memory.is_pinned

    @property
    def pinning(self) -> str:
        """HostBuffer.pinning."""
        return self.memory.pinning

    @property
    def regions(self) -> list[tuple[int, int]]:
        """(address, bytes) of each registration, ascending; empty if not pinned."""
        return self.memory.regions

    def slot_view(self, page_id: int) -> memoryview:
        """A page and the padding behind it: address and length are multiples of 4 KiB, so that
        O_DIRECT can read and write it in place.

        LayoutError if the pages are not contiguous or not 4 KiB apart (see aligned_slots); other
        errors are those of page_view.
        """
        stride = self.spec.stride_page
        if self.spec.is_page_contiguous and stride != slot_stride(stride):
            raise LayoutError(f"pool {self.name!r}: stride_page={stride} is no multiple of 4096")
        start = page_id * stride
        self.page_view(page_id).release()  # its checks
        return self._memory_view()[start : start + stride]

    def _paged_buffer(self) -> PagedBuffer:
        return PagedBuffer(
            self.memory.array[: self.spec.num_bytes], self.spec, hazards=self.hazards
        )

    def _close(self) -> None:
        self._buffer = None  # its array is a view too
        try:
            self.memory.close()
        except LifetimeError:
            self._buffer = self._paged_buffer()
            raise

    def _memory_view(self) -> memoryview:
        return self.memory.view()

    def _strided_pages(self) -> Any:
        array = self.buffer.array
        assert isinstance(array, np.ndarray)
        return np.lib.stride_tricks.as_strided(array, *self._axes())


def aligned_slots(spec: LayoutSpec) -> LayoutSpec:
    """`spec` with its pages a multiple of 4 KiB apart, for storage that reads with O_DIRECT.

    The bytes between a page and the next are nobody's. LayoutError if pages are not contiguous.
    """
    if not spec.is_page_contiguous:
        raise LayoutError(f"pages of a {spec.name} layout are not contiguous: no slots")
    return replace(spec, stride_page=slot_stride(spec.page_bytes))


def host_bytes(spec: LayoutSpec) -> int:
    """Host memory of a pool: with the padding of the last page, where pages are contiguous."""
    padded = spec.num_pages * spec.stride_page if spec.is_page_contiguous else 0
    return max(spec.num_bytes, padded)
