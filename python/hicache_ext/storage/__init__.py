"""L3: the PageStore protocol and its backends."""

from .endpoints import restorable_endpoints
from .memory import MemoryStore
from .namespace import StoreNamespace
from .protocol import PageStore

__all__ = ["MemoryStore", "PageStore", "StoreNamespace", "restorable_endpoints"]
