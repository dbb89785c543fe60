"""The pool of tier L2: host memory that is pinned where there is a GPU."""

from __future__ import annotations

from enum import Enum
from typing import Any

import numpy as np

from . import _C
from .errors import CudaError, LifetimeError
from .host_limits import check_host_memory
from .layout import LayoutSpec, PagedBuffer
from .page_pool import PagePool
from .tier import Tier


class PinMode(Enum):
    """Whether a HostPool registers its memory with CUDA."""

    AUTO = "auto"  # where there is a CUDA device
    NEVER = "never"
    REQUIRED = "required"  # CudaError where there is none


class HostPool(PagePool):
    """Tier L2: anonymous host memory, pinned when there is a GPU. See host_memory.h for how.

    close() refuses (LifetimeError that counts them; nothing is changed) while views live: page
    views, arrays over `buffer.array`, and `buffer` itself where somebody kept it. Refusing beats
    unmapping late: hundreds of gigabytes that a forgotten view holds are told, not lost. A pool
    that is dropped without close() is unmapped when its last view goes.
    """

    def __init__(
        self,
        spec: LayoutSpec,
        *,
        name: str,
        pin: PinMode = PinMode.AUTO,
        pin_api: _C.PinApi | None = None,
        num_threads: int = 0,
    ) -> None:
        """num_threads: of the first touch; 0 = the CPUs, at most 16. pin_api: instead of CUDA's
        registration functions, by default those of cudart on the caller's current device.

        CapacityError, with the numbers, if a cgroup, the machine or an RLIMIT has no room;
        CudaError if pinning fails (PinMode.NEVER does without) or is REQUIRED without a device.
        """
        api = None if pin is PinMode.NEVER else pin_api or _C.cuda_pin_api()
        if pin is PinMode.REQUIRED and api is None:
            raise CudaError(f"pool {name!r}: {_why_not_pinned(pin)}")
        # Before the ledger, which of a pool that cannot be had may itself be too large.
        check_host_memory(spec.num_bytes, f"pool {name!r}")
        super().__init__(spec, name=name, tier=Tier.HOST)
        self._memory = _C.HostMemory(spec.num_bytes, num_threads)
        self.pinning = _why_not_pinned(pin)
        if api is not None:
            # stride_page: what a page has in one piece. A batched copy must not span two regions.
            self._memory.pin(api, spec.stride_page)
            self.pinning = f"pinned in {len(self._memory.regions)} regions"
        self._buffer = self._paged_buffer()

    @property
    def is_pinned(self) -> bool:
        """Whether the GPU reaches the memory by DMA; `pinning` says in words why or why not."""
        return self._memory.is_pinned

    @property
    def regions(self) -> list[tuple[int, int]]:
        """(address, bytes) of each registration, ascending; empty if not pinned."""
        return self._memory.regions

    def _paged_buffer(self) -> PagedBuffer:
        return PagedBuffer(np.frombuffer(memoryview(self._memory), dtype=np.uint8), self.spec)

    def _close(self) -> None:
        self._buffer = None  # its array is a view too
        try:
            self._memory.close()
        except LifetimeError as error:
            self._buffer = self._paged_buffer()
            raise LifetimeError(f"pool {self.name!r}: {error}") from None

    def _memory_view(self) -> memoryview:
        return memoryview(self._memory)

    def _strided_pages(self) -> Any:
        array = self.buffer.array
        assert isinstance(array, np.ndarray)
        return np.lib.stride_tricks.as_strided(array, *self._axes())


def _why_not_pinned(pin: PinMode) -> str:
    if pin is PinMode.NEVER:
        return "not pinned: PinMode.NEVER"
    if not _C.with_cuda:
        return "not pinned: this build has no CUDA"
    return "not pinned: no CUDA driver or device"
