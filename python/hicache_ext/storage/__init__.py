"""L3: the PageStore protocol and its backends."""

from .endpoints import restorable_endpoints
from .fallback import FallbackStore
from .faulty import Answer, Faults, FaultyStore
from .head_shards import HeadShards, store_by_heads
from .limit import Limit
from .memory import MemoryStore
from .mooncake import MooncakeStore
from .mooncake_client import MooncakeClient
from .namespace import StoreNamespace
from .object_requests import open_s3
from .objects import ObjectStore
from .pieces import Piece, PieceStore
from .protocol import Capabilities, PageStore
from .redis import RedisStore
from .redis_links import RedisServer
from .segment_store import Durability, SegmentStore
from .several import PageWrite, PoolBatch, SeveralPools, exists_many, read_many, write_many

__all__ = [
    "Answer",
    "Capabilities",
    "Durability",
    "FallbackStore",
    "Faults",
    "FaultyStore",
    "HeadShards",
    "Limit",
    "MemoryStore",
    "MooncakeClient",
    "MooncakeStore",
    "ObjectStore",
    "PageStore",
    "PageWrite",
    "Piece",
    "PieceStore",
    "PoolBatch",
    "RedisServer",
    "RedisStore",
    "SegmentStore",
    "SeveralPools",
    "StoreNamespace",
    "exists_many",
    "open_s3",
    "read_many",
    "restorable_endpoints",
    "store_by_heads",
    "write_many",
]
