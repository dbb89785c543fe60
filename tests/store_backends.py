"""The backends of the conformance suite, and pages by number. A new backend is one entry here."""

import random
from collections.abc import Mapping
from dataclasses import replace
from secrets import token_hex

from mooncake_tools import shared_client
from net_servers import BUCKET, S3_KEY, S3_SECRET, shared_s3, shared_valkey

from hicache_ext.storage import (
    FallbackStore,
    FaultyStore,
    MemoryStore,
    MooncakeStore,
    ObjectStore,
    PageStore,
    RedisStore,
    SegmentStore,
    StoreNamespace,
    open_s3,
)

PAGE_BYTES = {"full": 4096, "swa": 1000}
NAMESPACES = {
    pool: StoreNamespace("model", "rev", "float32", {"num_layers": 2, "pool": pool}, 16, "0/1")
    for pool in PAGE_BYTES
}


Sizes = Mapping[str, int]


def named(sizes: Sizes) -> dict[str, StoreNamespace]:
    return {pool: NAMESPACES[pool] for pool in sizes}


def make_memory(tmp_path, sizes: Sizes = PAGE_BYTES) -> PageStore:
    return MemoryStore(sizes)


def make_segment(tmp_path, sizes: Sizes = PAGE_BYTES) -> PageStore:
    return SegmentStore(tmp_path / "store", named(sizes), sizes)


def make_faultless(tmp_path, sizes: Sizes = PAGE_BYTES) -> PageStore:
    return FaultyStore(MemoryStore(sizes))


def make_fallback(tmp_path, sizes: Sizes = PAGE_BYTES) -> PageStore:
    return FallbackStore([MemoryStore(sizes), make_segment(tmp_path, sizes)])


def make_redis(tmp_path, sizes: Sizes = PAGE_BYTES) -> PageStore:
    url = f"redis://127.0.0.1:{shared_valkey().port}"
    store = RedisStore(url, named(sizes), sizes)
    store.clear()
    return store


def make_mooncake(tmp_path, sizes: Sizes = PAGE_BYTES) -> PageStore:
    # Of the shared cluster a namespace that no other test knows.
    own = {pool: replace(space, revision=token_hex()) for pool, space in named(sizes).items()}
    return MooncakeStore(shared_client(), own, sizes)


def open_bucket(port: int, secret: str = S3_SECRET, bucket: str = BUCKET, **options):
    endpoint = f"http://127.0.0.1:{port}"
    keys = {"access_key_id": S3_KEY, "secret_access_key": secret}
    return open_s3(bucket, endpoint=endpoint, **keys, **options)


def make_objects(tmp_path, sizes: Sizes = PAGE_BYTES) -> PageStore:
    bucket = open_bucket(shared_s3().port)
    prefix = tmp_path.name  # nobody else's
    return ObjectStore(bucket, named(sizes), sizes, prefix=prefix, object_bytes=20_000)


MAKERS = {
    "memory": make_memory,
    "segment": make_segment,
    "faulty": make_faultless,
    "fallback": make_fallback,
    "redis": make_redis,
    "mooncake": make_mooncake,
    "objects": make_objects,
}


def key_of(number: int) -> bytes:
    return random.Random(number).randbytes(32)


def page_of(number: int, pool: str = "full") -> bytes:
    return random.Random(f"{pool}/{number}").randbytes(PAGE_BYTES[pool])


def put(store: PageStore, numbers, pool: str = "full") -> list[bool]:
    keys = [key_of(n) for n in numbers]
    return store.write_from(pool, keys, [memoryview(page_of(n, pool)) for n in numbers])


def get(store: PageStore, numbers, pool: str = "full") -> list[bytes | None]:
    """Each page's bytes, None for a miss; buffers are poisoned first, so stale bytes show."""
    buffers = [bytearray(b"\xa5" * PAGE_BYTES[pool]) for _ in numbers]
    found = store.read_into(pool, [key_of(n) for n in numbers], [memoryview(b) for b in buffers])
    assert len(found) == len(buffers)
    return [bytes(b) if ok else None for ok, b in zip(found, buffers, strict=True)]
