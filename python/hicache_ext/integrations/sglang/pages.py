"""Where the bytes of a page lie in one of SGLang's host pools, and how they become objects.

A pool names the address of each buffer of a page: K and V in the page-first layouts, one latent
for MLA, several states for Mamba. Those are stored as they lie, without a copy. Where a page is
scattered (layer_first: 2 * layers pieces) it goes through memory of our own, by SGLang's own code
for flat pages; that order of bytes is also the one of the v0 interface, so that v0 and v1 read
each other's pages.
"""

from __future__ import annotations

import ctypes
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

from hicache_ext.errors import StorageError
from hicache_ext.storage import Limit, Piece, PieceStore, StoreNamespace
from hicache_ext.storage.head_shards import piece_pool
from hicache_ext.storage.pieces import MAX_RUNS

from .lent import lent
from .naming import Naming
from .stores import holds_buffers

COPY_BYTES = 32 << 20  # of our own memory that a call uses at a time


class HostPages(ABC):
    """The pages of one host pool, and the objects that each of them is.

    `host_indices`: int64[len(keys) * page_size] on the CPU, of which entry i * page_size is the
    first slot of page i and the rest follow it.
    """

    def __init__(self, name: str, pool: Any, cut: list[Piece]) -> None:
        self.name = name
        self.pool = pool
        self.cut = cut
        self.page_bytes = sum(piece.num_bytes for piece in cut)

    @abstractmethod
    def read(
        self, store: PieceStore, keys: Sequence[bytes], host_indices: Any, limit: Limit
    ) -> list[bool]:
        """Into the pool."""

    @abstractmethod
    def write(
        self, store: PieceStore, keys: Sequence[bytes], host_indices: Any, limit: Limit
    ) -> list[bool]:
        """From the pool."""

    def first_slots(self, keys: Sequence[bytes], host_indices: Any) -> list[int]:
        """Of each page; StorageError for pages that are not there, whose addresses nobody owns."""
        slots: list[int] = host_indices[:: self.pool.page_size].tolist()
        if host_indices.numel() != len(keys) * self.pool.page_size:
            raise StorageError(
                f"pool {self.name!r}: {host_indices.numel()} host indices for {len(keys)} keys of "
                f"{self.pool.page_size} slots"
            )
        last = self.pool.size - self.pool.page_size
        if slots and not 0 <= min(slots) <= max(slots) <= last:
            raise StorageError(
                f"pool {self.name!r}: pages from slot {min(slots)} to {max(slots)}, expected 0 to "
                f"{last}"
            )
        return slots


def open_pages(
    name: str, pool: Any, anchor_page_size: int, naming: Naming
) -> tuple[HostPages, dict[str, StoreNamespace]]:
    """The pages, and the namespace of each of their pieces by its pool.

    StorageError for a pool whose pages cannot be had as the store needs them.
    """
    if (num_owners := getattr(pool, "shard_size", 1)) > 1:  # PageInterleaveHostPool
        raise StorageError(f"pool {name!r}: its pages lie with {num_owners} ranks: not supported")
    shards = naming.shares(name, pool).names
    is_lent = holds_buffers(naming.config.store)
    try:
        addresses, sizes = _buffers(pool, _first_slots(pool), len(shards))
        why = f"{len(sizes)} buffers"
    except (AssertionError, AttributeError, NotImplementedError, ValueError) as error:
        addresses, sizes, why = [], [], f"{type(error).__name__}: {error}"
    is_scattered = not 1 <= len(sizes) <= MAX_RUNS * len(shards)
    if is_scattered and len(shards) > 1:
        raise StorageError(f"pool {name!r} of layout {pool.layout}: cannot be cut by heads: {why}")
    if is_scattered or is_lent:
        try:
            flat = flat_bytes(pool.get_data_page(0, flat=True))
        except (AttributeError, NotImplementedError, ValueError) as error:
            raise StorageError(f"pool {name!r} of layout {pool.layout}: {why}; {error}") from error
        if is_scattered:
            addresses, sizes = [0], [flat.nbytes]
    num_pieces = len(sizes) // len(shards)
    cut: list[Piece] = []
    namespaces: dict[str, StoreNamespace] = {}
    for i, offset in enumerate(_flat_offsets(pool, addresses, sizes)):
        shard, run = shards[i // num_pieces], i % num_pieces
        cut.append(Piece(piece_pool(name, shard, run), offset, sizes[i]))
        part = f"{run}/{num_pieces} of {sizes[i]}"
        namespaces[cut[-1].pool] = naming.namespace(name, pool, anchor_page_size, shard, part)
    if is_scattered or is_lent:
        return CopiedPages(name, pool, cut, is_lent), namespaces
    return DirectPages(name, pool, cut, len(shards)), namespaces


class DirectPages(HostPages):
    """Pages that are stored straight from, and read straight into, the pool's memory."""

    def __init__(self, name: str, pool: Any, cut: list[Piece], num_shards: int) -> None:
        super().__init__(name, pool, cut)
        self._num_shards = num_shards

    def read(
        self, store: PieceStore, keys: Sequence[bytes], host_indices: Any, limit: Limit
    ) -> list[bool]:
        return store.read_pieces(self.name, keys, self._columns(keys, host_indices), limit)

    def write(
        self, store: PieceStore, keys: Sequence[bytes], host_indices: Any, limit: Limit
    ) -> list[bool]:
        return store.write_pieces(self.name, keys, self._columns(keys, host_indices), limit)

    def _columns(self, keys: Sequence[bytes], host_indices: Any) -> list[list[memoryview]]:
        """[piece][page]; SGLang's order is page by page, inside of a page share by share."""
        self.first_slots(keys, host_indices)
        addresses, sizes = _buffers(self.pool, host_indices, self._num_shards)
        if len(addresses) != len(keys) * len(self.cut):
            raise StorageError(f"{len(addresses)} buffers of {len(keys)} pages: {self.name!r}")
        views = [_memory(*buffer) for buffer in zip(addresses, sizes, strict=True)]
        return [views[i :: len(self.cut)] for i in range(len(self.cut))]


class CopiedPages(HostPages):
    """Pages that SGLang's pool puts together in memory of its own, and takes apart again."""

    def __init__(self, name: str, pool: Any, cut: list[Piece], is_lent: bool) -> None:
        """`is_lent`: the store may hold memory longer than a call."""
        super().__init__(name, pool, cut)
        self._is_lent = is_lent

    def read(
        self, store: PieceStore, keys: Sequence[bytes], host_indices: Any, limit: Limit
    ) -> list[bool]:
        import torch

        like = self.pool.get_data_page(0, flat=True)
        slots = self.first_slots(keys, host_indices)
        found: list[bool] = []
        for some in self._steps(len(keys)):
            pages = torch.empty((len(slots[some]), like.numel()), dtype=like.dtype)
            with lent(pages):
                views = [flat_bytes(page) for page in pages]
                told = store.read_into(self.name, keys[some], views, limit)
            for slot, page, is_there in zip(slots[some], pages, told, strict=True):
                if is_there:
                    self.pool.set_from_flat_data_page(slot, page)
            found += told
        return found

    def write(
        self, store: PieceStore, keys: Sequence[bytes], host_indices: Any, limit: Limit
    ) -> list[bool]:
        slots = self.first_slots(keys, host_indices)
        stored: list[bool] = []
        for some in self._steps(len(keys)):
            pages = [self.pool.get_data_page(slot, flat=True) for slot in slots[some]]
            if self._is_lent:  # a flat page may be a view of the pool
                pages = [page.clone() for page in pages]
            with lent(pages):
                views = [flat_bytes(page) for page in pages]
                stored += store.write_from(self.name, keys[some], views, limit)
        return stored

    def _steps(self, num_pages: int) -> list[slice]:
        step = max(1, COPY_BYTES // self.page_bytes)
        return [slice(begin, begin + step) for begin in range(0, num_pages, step)]


def flat_bytes(tensor: Any) -> memoryview:
    """The bytes of a flat page; of the tensor itself where that is contiguous."""
    import torch

    return memoryview(tensor.reshape(-1).view(torch.uint8).numpy())


def _memory(address: int, num_bytes: int) -> memoryview:
    """Not owned: the pool outlives the call, since we hold it."""
    return memoryview((ctypes.c_ubyte * num_bytes).from_address(address)).cast("B")


def _first_slots(pool: Any) -> Any:
    import torch

    return torch.arange(pool.page_size, dtype=torch.int64)


def _buffers(pool: Any, host_indices: Any, num_shards: int) -> tuple[list[int], list[int]]:
    """Addresses and sizes, page by page; with several shards, shard by shard inside of a page."""
    if pool.layout == "page_unified":
        layout = pool.page_unified_layout
        base, pages = pool.kv_buffer.data_ptr(), host_indices[:: pool.page_size].tolist()
        size = layout.bytes_per_page // num_shards
        starts = [base + slot // pool.page_size * layout.bytes_per_page for slot in pages]
        addresses = [start + i * size for start in starts for i in range(num_shards)]
        return addresses, [size] * len(addresses)
    if num_shards > 1:
        addresses, sizes = pool.get_split_heads_page_buffer_meta(host_indices, num_shards)
    else:
        addresses, sizes = pool.get_page_buffer_meta(host_indices)
    return list(addresses), list(sizes)


def _flat_offsets(pool: Any, addresses: list[int], sizes: list[int]) -> list[int]:
    """Where each buffer begins in a flat page: in the order of addresses if they are of one tensor,
    as flattening it would have them; else in the order given, as Mamba's states are joined."""
    order = list(range(len(addresses)))
    if hasattr(getattr(pool, "kv_buffer", None), "data_ptr"):
        order.sort(key=lambda i: addresses[i])
    offsets = [0] * len(order)
    end = 0
    for i in order:
        offsets[i] = end
        end += sizes[i]
    return offsets
