"""Host memory for hundreds of gigabytes: private or shared, placed, pinned where there is a GPU.

Fork: a child gets a copy on write of private memory; once it is pinned the child does not get it at
all, since otherwise a write of the parent could move a page away from under the GPU. Shared memory
is the same bytes in the child. A child never unregisters what its parent registered.
"""

from __future__ import annotations

import os
from enum import Enum
from typing import Any

import numpy as np
import numpy.typing as npt

from . import _C
from ._C import HugePages, Sharing, slot_stride
from .checks import MAX_BYTES, MAX_INT, MAX_WORKERS, require_kind, require_whole
from .errors import CapacityError, CudaError, LayoutError, LifetimeError
from .host_limits import HostLimit, check_host_memory, host_limits
from .host_placement import huge_bytes, limits_of, locked_limits

__all__ = ["HostBuffer", "HugePages", "PinMode", "Sharing", "slot_stride"]


class PinMode(Enum):
    """Whether the pages may be moved or swapped out, and whether the GPU may reach them by DMA."""

    AUTO = "auto"  # registered with CUDA where there is a device
    NEVER = "never"
    REQUIRED = "required"  # CudaError where there is no device
    LOCKED = "locked"  # mlock: they stay in RAM, but CUDA does not know them


class HostBuffer:
    """Zero-filled, 4 KiB-aligned host memory, touched in parallel and registered in chunks.

    `array` and `view()` are its bytes; they are counted, and close() refuses while any of them
    lives, in a ticket or elsewhere. A buffer that is dropped without close() is unmapped when its
    last view goes.

    Shared memory (Sharing.SHARED) is a memory file (memfd): it has no name that could be left
    behind, is readable and writable by this user alone (mode 0600), cannot change its size, and
    goes with the last process that has it. Another process gets it by HostBuffer.attach.
    """

    def __init__(
        self,
        num_bytes: int,
        *,
        name: str = "host buffer",
        sharing: Sharing = Sharing.PRIVATE,
        huge_pages: HugePages = HugePages.ADVISE,
        numa_node: int | None = None,
        num_threads: int = 0,
        pin: PinMode = PinMode.AUTO,
        pin_api: _C.PinApi | None = None,
        object_bytes: int = 4096,
    ) -> None:
        """huge_pages: NEVER; ADVISE, which the kernel may not follow (`huge_bytes` tells); or
        MIB_2 and GIB_1 of the pool that the administrator reserved.
        numa_node: all pages on this node; None = where the threads run that touch them first.
        num_threads: of the first touch; 0 = the CPUs, at most 16.
        object_bytes: the registrations, at most 64 GiB each, end between objects of this size.
        pin_api: instead of CUDA's registration functions, by default those of cudart on the
        caller's current device.

        CapacityError, with the numbers, if a cgroup, the machine, the node, the huge pages or an
        RLIMIT have no room; CudaError if pinning fails or is REQUIRED without a device.
        """
        api = self._start(name, pin, pin_api, num_bytes, object_bytes)
        require_kind("sharing", sharing, Sharing)
        require_kind("huge_pages", huge_pages, HugePages)
        require_whole("num_threads", num_threads, least=0, most=MAX_WORKERS)
        if numa_node is not None:
            require_whole("numa_node", numa_node, least=0, most=MAX_INT)
        limits = limits_of(sharing, huge_pages, numa_node)
        if pin is PinMode.LOCKED:
            limits += locked_limits()
        check_host_memory(num_bytes, name, limits)
        self._memory = _C.HostMemory(
            num_bytes,
            sharing=sharing,
            huge_pages=huge_pages,
            numa_node=-1 if numa_node is None else numa_node,
            num_threads=num_threads,
        )
        self._pin(pin, api, object_bytes)

    @classmethod
    def attach(
        cls,
        fd: int,
        *,
        num_bytes: int | None = None,
        name: str = "host buffer",
        pin: PinMode = PinMode.AUTO,
        pin_api: _C.PinApi | None = None,
        object_bytes: int = 4096,
    ) -> HostBuffer:
        """The shared memory of another HostBuffer, whose `fd` came here through a fork, over a
        socket (SCM_RIGHTS) or by opening /proc/PID/fd/FD. The descriptor stays the caller's.

        num_bytes: of the other buffer; None = the whole file, which is that rounded up to pages.
        LayoutError if it is no memory file of that size or not writable, LifetimeError if it is not
        sealed against shrinking.
        """
        buffer = cls.__new__(cls)
        require_whole("fd", fd, least=0, most=MAX_INT)
        if num_bytes is None:
            num_bytes = _file_bytes(fd)
        api = buffer._start(name, pin, pin_api, num_bytes, object_bytes)
        in_use = [limit for limit in host_limits() if limit.source == "RLIMIT_AS"]
        limits = [*in_use, *(locked_limits() if pin is PinMode.LOCKED else [])]
        check_host_memory(num_bytes, name, limits)
        buffer._memory = _C.HostMemory.attach(fd, num_bytes)
        buffer._pin(pin, api, object_bytes)
        return buffer

    def _start(
        self,
        name: str,
        pin: PinMode,
        pin_api: _C.PinApi | None,
        num_bytes: int,
        object_bytes: int,
    ) -> _C.PinApi | None:
        """Before anything is taken: what to pin with."""
        require_kind("pin", pin, PinMode)
        if pin_api is not None:
            require_kind("pin_api", pin_api, _C.PinApi)
        require_whole("num_bytes", num_bytes, least=0, most=MAX_BYTES)
        require_whole("object_bytes", object_bytes, least=0, most=MAX_BYTES)
        self.name = name
        self.pinning = _why_not_pinned(pin)
        if pin in (PinMode.NEVER, PinMode.LOCKED):
            return None
        api = pin_api or _C.cuda_pin_api()
        if pin is PinMode.REQUIRED and api is None:
            raise CudaError(f"{name}: {self.pinning}")
        return api

    def _pin(self, pin: PinMode, api: _C.PinApi | None, object_bytes: int) -> None:
        try:
            if pin is PinMode.LOCKED:
                self._memory.lock()
                self.pinning = "locked in RAM, not pinned: PinMode.LOCKED"
            elif api is not None:
                self._memory.pin(api, object_bytes)
                self.pinning = f"pinned in {len(self._memory.regions)} regions"
        except (CapacityError, CudaError) as error:
            self._memory.close()  # now, and not when the traceback goes that holds it
            room = _room([*host_limits(), *locked_limits()])
            raise type(error)(f"{self.name}: {error}; {room}") from None

    @property
    def num_bytes(self) -> int:
        """As asked for; the mapping itself is rounded up to pages."""
        return self._memory.num_bytes

    @property
    def address(self) -> int:
        """Of the first byte: a multiple of 4 KiB, of 2 MiB where the buffer is that large."""
        return self._memory.address

    @property
    def array(self) -> npt.NDArray[np.uint8]:
        """The bytes, uint8 [num_bytes], no copy. LifetimeError if closed."""
        return np.frombuffer(self.view(), dtype=np.uint8)

    def view(self) -> memoryview:
        """The bytes as a memoryview, format "B", no copy. LifetimeError if closed."""
        return memoryview(self._memory)

    def __dlpack__(self, **options: Any) -> Any:
        """A DLPack capsule on the CPU that counts as a view: torch.from_dlpack(buffer)."""
        return self.array.__dlpack__(**options)

    def __dlpack_device__(self) -> tuple[int, int]:
        return (1, 0)  # kDLCPU

    @property
    def is_pinned(self) -> bool:
        """Whether the GPU reaches the memory by DMA; `pinning` says in words why or why not."""
        return self._memory.is_pinned

    @property
    def regions(self) -> list[tuple[int, int]]:
        """(address, bytes) of each registration, ascending; empty if not pinned."""
        return self._memory.regions

    @property
    def fd(self) -> int:
        """Of the memory file, open as long as the buffer is. LayoutError if it is not shared."""
        if self._memory.fd < 0:
            raise LayoutError(f"{self.name}: private or closed memory has no file to attach")
        return self._memory.fd

    @property
    def huge_bytes(self) -> int:
        """How much the kernel backs with huge pages now, reserved or transparent."""
        return huge_bytes(self.address, self._memory.mapped_bytes)

    @property
    def is_closed(self) -> bool:
        return self._memory.is_closed

    def close(self) -> None:
        """Unregister and unmap; a second close does nothing.

        LifetimeError that counts them, and nothing is changed, while views live: in arrays,
        memoryviews, tensors, or in tickets of copies that are not done.
        """
        try:
            self._memory.close()
        except LifetimeError as error:
            raise LifetimeError(f"{self.name}: {error}") from None


def _why_not_pinned(pin: PinMode) -> str:
    if pin in (PinMode.NEVER, PinMode.LOCKED):
        return f"not pinned: PinMode.{pin.name}"
    if not _C.with_cuda:
        return "not pinned: this build has no CUDA"
    return "not pinned: no CUDA driver or device"


def _file_bytes(fd: int) -> int:
    try:
        return os.fstat(fd).st_size
    except OSError as error:
        raise LayoutError(f"fd={fd!r} is no memory file: {error}") from None


def _room(limits: list[HostLimit]) -> str:
    return "room left: " + ", ".join(f"{limit.source} {limit.free_bytes}" for limit in limits)
