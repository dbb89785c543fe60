"""L3: the PageStore protocol and its backends."""

from .endpoints import restorable_endpoints
from .faulty import Answer, Faults, FaultyStore
from .local import LocalStore
from .memory import MemoryStore
from .namespace import StoreNamespace
from .protocol import PageStore
from .segment import Durability

__all__ = [
    "Answer",
    "Durability",
    "Faults",
    "FaultyStore",
    "LocalStore",
    "MemoryStore",
    "PageStore",
    "StoreNamespace",
    "restorable_endpoints",
]
