"""Pools: the pages of one cache kind on one tier, their memory and the ledger of who has which."""

from .allocator import PageAllocator, PageState
from .device_pool import DevicePool
from .host_pool import HostPool, PinMode
from .page_pool import PagePool

__all__ = ["DevicePool", "HostPool", "PageAllocator", "PagePool", "PageState", "PinMode"]
