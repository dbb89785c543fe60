"""Pools: the pages of one cache kind on one tier, their memory and the ledger of who has which."""

from .allocator import PageAllocator, PageState
from .device_pool import DevicePool
from .hazards import Access
from .host_buffer import HostBuffer, HugePages, PinMode, Sharing, slot_stride
from .host_pool import HostPool, aligned_slots
from .page_pool import PagePool

__all__ = [
    "Access",
    "DevicePool",
    "HostBuffer",
    "HostPool",
    "HugePages",
    "PageAllocator",
    "PagePool",
    "PageState",
    "PinMode",
    "Sharing",
    "aligned_slots",
    "slot_stride",
]
