"""Pools and slots between guards, and what a gather and a scatter must do to them."""

from __future__ import annotations

import random
from collections.abc import Set
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np
import xxhash
from page_cases import KINDS, random_spec
from pages import GUARD, POISON, Guarded, guarded, guarded_set, random_bytes

from hicache_ext.hazards import Hazards
from hicache_ext.layout import LayoutSpec, PagedBuffer
from hicache_ext.staging import Slots, gather_slots, scatter_slots

GUARD_BYTES = 192
SPEC = LayoutSpec.make(
    "page_unified", num_pages=4, page_size=2, num_layers=1, num_heads=1, head_bytes=8
)


def checksum(key: bytes, object_bytes: bytes) -> bytes:
    return xxhash.xxh3_128_digest(object_bytes, seed=int.from_bytes(key[:8], "little"))


@dataclass
class Stage:
    """A pool of random bytes, and slots at an odd address between guards, all of them poison."""

    pool: Guarded
    slots: Slots
    arena: np.ndarray  # of the slots
    num_groups: int

    @classmethod
    def draw(cls, rng: random.Random, kind: str, head_bytes: int) -> Stage:
        like = SimpleNamespace(
            page_size=rng.choice([1, 3, 16] if head_bytes < 5000 else [1, 5]),
            num_layers=rng.choice([1, 2, 3]),
            num_kv=rng.choice([1, 2]),
            num_heads=rng.choice([1, 4]),
            head_bytes=head_bytes,
        )
        (pool,) = guarded_set([random_spec(rng, kind, like)], [rng.choice([0, 1, 8])])
        pool.bytes[:] = random_bytes(rng, pool.bytes.size)
        stride = pool.spec.page_bytes + rng.choice([0, 1, 63, 4096])
        begin = GUARD_BYTES + rng.choice([0, 1, 16])
        num_bytes = rng.randint(1, 7) * stride
        arena = np.full(begin + num_bytes + GUARD_BYTES, GUARD, np.uint8)
        memory = arena[begin : begin + num_bytes]
        memory[:] = POISON
        groups = rng.choice([1, pool.spec.num_heads])
        slots = Slots(memory, pool.spec, num_groups=groups, slot_stride_bytes=stride)
        return cls(pool, slots, arena, groups)

    def slot(self, arena: np.ndarray, slot: int) -> np.ndarray:
        """With its padding."""
        first = self.slots.buffer.address - self.arena.ctypes.data
        stride = self.slots.slot_stride_bytes
        return arena[first + slot * stride :][:stride]

    def object_of(self, page: int) -> np.ndarray:
        """[group, layer, kv, token, head, byte], flat: what must lie in the slot of a page."""
        spec = self.pool.spec
        shape = (spec.page_size, self.num_groups, -1, spec.head_bytes)
        planes = [
            [
                self.pool.layer(self.pool.bytes, layer, kv)[page].reshape(shape)
                for kv in range(spec.num_kv)
            ]
            for layer in range(spec.num_layers)
        ]
        return np.array(planes).transpose(3, 0, 1, 2, 4, 5).ravel()

    def put(self, target: Guarded, page: int, content: np.ndarray) -> None:
        """The inverse, into another pool."""
        spec = target.spec
        heads = spec.num_heads // self.num_groups
        axes = (self.num_groups, spec.num_layers, spec.num_kv, spec.page_size, heads, -1)
        planes = content.reshape(axes).transpose(1, 2, 3, 0, 4, 5)
        for layer in range(spec.num_layers):
            for kv in range(spec.num_kv):
                view = target.layer(target.bytes, layer, kv)[page]
                view[:] = planes[layer, kv].reshape(view.shape)

    def ids(self, rng: random.Random) -> list[int]:
        """Shuffled, both ends, duplicates and holes among them; perhaps none, perhaps not for every
        slot."""
        num_pages = self.pool.spec.num_pages
        drawn = [0, num_pages - 1, *(rng.randrange(-1, num_pages) for _ in range(9))]
        rng.shuffle(drawn)
        return drawn[: rng.randint(0, self.slots.num_slots)]


def poisoned_pool(rng: random.Random, like: LayoutSpec, num_pages: int) -> Guarded:
    while True:
        spec = random_spec(rng, rng.choice(KINDS), like)
        if spec.num_pages >= num_pages:
            return guarded(spec, POISON, rng.choice([0, 1, 8]))


def check_gather(stage: Stage, ids: list[int], keys: list[bytes] | None, num_threads: int) -> Any:
    before, expected = stage.pool.whole.copy(), stage.arena.copy()
    wanted: list[bytes | None] = []
    for i, page in enumerate(ids):
        wanted.append(None)
        if page < 0:
            continue
        content = stage.object_of(page)
        slot = stage.slot(expected, i)
        slot[:] = 0
        slot[: content.size] = content
        if keys is not None:
            wanted[i] = checksum(keys[i], content.tobytes())
    told = gather_slots(stage.pool.buffer, ids, stage.slots, keys=keys, num_threads=num_threads)
    np.testing.assert_array_equal(stage.arena, expected)
    np.testing.assert_array_equal(stage.pool.whole, before)
    assert told == wanted
    return told


def check_scatter(
    stage: Stage, rng: random.Random, count: int, bad: Set[int] = frozenset(), **options: Any
) -> None:
    """Slots 0..count into a fresh pool; those in `bad` must be found out."""
    target = poisoned_pool(rng, stage.pool.spec, count)
    pages = rng.sample(range(target.spec.num_pages), count)
    for i in range(count):
        if rng.random() < 0.15 and i not in bad:
            pages[i] = -5
    expected = Guarded(target.spec, target.buffer, target.whole.copy(), target.planes)
    for i, page in enumerate(pages):
        if page >= 0 and i not in bad:
            stage.put(expected, page, stage.slot(stage.arena, i)[: stage.slots.object_bytes])
    before = stage.arena.copy()
    told = scatter_slots(stage.slots, target.buffer, pages, **options)
    np.testing.assert_array_equal(target.whole, expected.whole)
    np.testing.assert_array_equal(stage.arena, before)
    assert told == [page >= 0 and i not in bad for i, page in enumerate(pages)]


def pool_and_slots() -> tuple[PagedBuffer, Slots]:
    array = np.arange(SPEC.num_bytes, dtype=np.uint8)
    pool = PagedBuffer(array, SPEC, hazards=Hazards(SPEC.num_pages))
    slots = Slots(np.full(4 * 40, POISON, np.uint8), SPEC, slot_stride_bytes=40)
    return pool, slots
