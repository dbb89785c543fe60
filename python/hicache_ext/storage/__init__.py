"""L3: the PageStore protocol and its backends."""

from .endpoints import restorable_endpoints
from .faulty import Answer, Faults, FaultyStore
from .limit import Limit
from .local import LocalStore
from .memory import MemoryStore
from .namespace import StoreNamespace
from .protocol import Capabilities, PageStore
from .segment import Durability

__all__ = [
    "Answer",
    "Capabilities",
    "Durability",
    "Faults",
    "FaultyStore",
    "Limit",
    "LocalStore",
    "MemoryStore",
    "PageStore",
    "StoreNamespace",
    "restorable_endpoints",
]
