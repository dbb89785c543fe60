"""Pages on their way between a pool in host memory and storage: gather_slots, scatter_slots."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from hicache_ext import _C, arrays
from hicache_ext.checks import MAX_BYTES, MAX_WORKERS, require_kind, require_whole
from hicache_ext.copy_part import CopyPart
from hicache_ext.errors import LayoutError
from hicache_ext.host_buffer import slot_stride
from hicache_ext.keys import KEY_BYTES, checksum_seed
from hicache_ext.layout import LayoutSpec, PagedBuffer
from hicache_ext.page_ids import PageIds, host_page_ids
from hicache_ext.plan_set import PlanSet
from hicache_ext.profile import CopyRanges, copy_ranges

CHECKSUM_BYTES = 16


class Slots:
    """Page objects in host memory, slot i from byte i * slot_stride_bytes: what storage moves.

    An object is a page as page_unified has it, without gaps. A gather zeroes the padding between it
    and the next slot, a scatter does not look at it. In a HostBuffer and with the default stride
    each slot is aligned to 4 KiB, as O_DIRECT wants it.
    """

    def __init__(
        self,
        memory: object,
        pool_spec: LayoutSpec,
        *,
        num_groups: int = 1,
        slot_stride_bytes: int | None = None,
    ) -> None:
        """As many slots as `memory` has room for; it is kept alive.

        memory: what a PagedBuffer takes, of any size, or a HostBuffer. pool_spec: of the pages, in
        any layout. num_groups: head groups of an object; the bytes of each lie together.
        slot_stride_bytes: by default an object rounded up to 4 KiB.

        LayoutError, with argument and value: memory on a GPU, with gaps, or too short for a slot; a
        stride shorter than an object; head groups that do not divide the heads.
        """
        require_kind("pool_spec", pool_spec, LayoutSpec)
        view = arrays.view(memory)
        if view.device != "cpu" or not view.is_contiguous:
            raise LayoutError(
                f"memory of slots must be in host memory without gaps: device={view.device} "
                f"shape={list(view.shape)} strides={list(view.strides)}"
            )
        object_bytes = pool_spec.page_bytes
        stride = slot_stride(object_bytes)
        if slot_stride_bytes is not None:
            stride = require_whole("slot_stride_bytes", slot_stride_bytes, most=MAX_BYTES)
        if stride < object_bytes:
            raise LayoutError(
                f"slot_stride_bytes={stride} is less than the {object_bytes} of a page"
            )
        self.num_slots = view.num_bytes // stride
        if self.num_slots == 0:
            raise LayoutError(
                f"memory of {view.num_bytes} bytes has no room for a slot of {stride}"
            )
        spec = replace(pool_spec.packed(self.num_slots, num_groups), stride_page=stride)
        self.array = np.asarray(_Bytes(memory, view, self.num_slots * stride))
        self.buffer = PagedBuffer(self.array[: spec.num_bytes], spec)
        # The padding of the last slot, which is written too, must not lie in the pool either.
        self.buffer.native = _C.Buffer.of_range(view.address, self.array.nbytes)

    @property
    def object_bytes(self) -> int:
        return self.buffer.spec.page_bytes

    @property
    def slot_stride_bytes(self) -> int:
        return self.buffer.spec.stride_page

    def slot_view(self, slot: int) -> memoryview:
        """A slot with its padding. LayoutError if there is none of that number."""
        if not 0 <= slot < self.num_slots:
            raise LayoutError(f"slot={slot} is none of num_slots={self.num_slots}")
        begin = slot * self.slot_stride_bytes
        return self.array[begin : begin + self.slot_stride_bytes].data

    def object_view(self, slot: int) -> memoryview:
        """The object in a slot, without its padding: what a PageStore reads and writes."""
        return self.slot_view(slot)[: self.object_bytes]


def gather_slots(
    src: PagedBuffer,
    page_ids: PageIds,
    slots: Slots,
    *,
    keys: Sequence[bytes] | None = None,
    num_threads: int | None = None,
) -> list[bytes | None]:
    """Pack page page_ids[i] of `src` into slot i, for every i, and zero the padding behind it.

    Page ids: as of copy_pages, in host memory; a negative one is a hole and leaves its slot alone.
    keys: the 32-byte key of each page. Returns their checksums, None for a hole and without keys:
    xxh3_128 of the object, seeded with checksum_seed(key), as a SegmentStore has it.
    num_threads: by default every CPU that the process may use; a slot is one thread's.

    Comes after the copies under way that are in its way, as copy_pages does, and returns when all
    bytes are there. Raises before anything is written: LayoutError (pages of another shape, ids of
    a wrong type, more ids than slots, not a key for each, read-only memory, slots that overlap the
    pool, a pool on a GPU), PageIndexError (an id out of range, with its position).
    """
    require_kind("slots", slots, Slots)
    ids = host_page_ids("source", page_ids)
    parts = PlanSet([CopyPart(src, ids, slots.buffer, _first(slots, len(ids)))])
    seeds = None if keys is None else _seeds(keys, len(ids))
    with _started("gather_slots", parts, num_threads) as ranges:
        checksums = _C.gather_slots(parts.native, seeds=seeds, num_threads=num_threads or 0)
    ranges.close()
    return checksums


def scatter_slots(
    slots: Slots,
    dst: PagedBuffer,
    page_ids: PageIds,
    *,
    keys: Sequence[bytes] | None = None,
    checksums: Sequence[bytes | None] | None = None,
    num_threads: int | None = None,
) -> list[bool]:
    """Unpack slot i into page page_ids[i] of `dst`, for every i; True where the page is now there.

    With keys and checksums, one of each for every id as gather_slots had and returned them, an
    object is verified before it is unpacked: False for one with another checksum, whose page stays
    as it was. False also for a hole, whose checksum is not looked at. Otherwise as gather_slots;
    PageIndexError also for a destination page twice.
    """
    require_kind("slots", slots, Slots)
    ids = host_page_ids("destination", page_ids)
    parts = PlanSet([CopyPart(slots.buffer, _first(slots, len(ids)), dst, ids)])
    seeds, digests = None, b""
    if keys is not None and checksums is not None:
        seeds, digests = _seeds(keys, len(ids)), _joined(checksums, ids)
    elif keys is not checksums:
        missing = "keys" if keys is None else "checksums"
        raise LayoutError(f"{missing}=None: keys and checksums are given together or not at all")
    with _started("scatter_slots", parts, num_threads) as ranges:
        is_written = _C.scatter_slots(
            parts.native, seeds=seeds, digests=digests, num_threads=num_threads or 0
        )
    ranges.close()
    return is_written


class _Bytes:
    """Memory of any kind as bytes, for NumPy; it keeps what owns them."""

    def __init__(self, memory: object, view: arrays.ArrayView, num_bytes: int) -> None:
        self._owners = memory, view.owner
        self.__array_interface__ = {
            "version": 3,
            "data": (view.address, not view.is_writable),
            "shape": (num_bytes,),
            "typestr": "|u1",
        }


def _first(slots: Slots, count: int) -> npt.NDArray[np.int64]:
    if count > slots.num_slots:
        raise LayoutError(f"{count} page ids for num_slots={slots.num_slots}")
    return np.arange(count)


def _seeds(keys: Sequence[bytes], count: int) -> npt.NDArray[np.uint64]:
    require_kind("keys", keys, Sequence)
    if len(keys) != count:
        raise LayoutError(f"{len(keys)} keys for {count} page ids")
    for position, key in enumerate(keys):
        if not isinstance(key, bytes) or len(key) != KEY_BYTES:
            raise LayoutError(f"keys: position={position} value={key!r} is not {KEY_BYTES} bytes")
    return np.array([checksum_seed(key) for key in keys], np.uint64)


def _joined(checksums: Sequence[bytes | None], ids: npt.NDArray[Any]) -> bytes:
    require_kind("checksums", checksums, Sequence)
    if len(checksums) != len(ids):
        raise LayoutError(f"{len(checksums)} checksums for {len(ids)} page ids")
    parts = []
    for position, (checksum, page_id) in enumerate(zip(checksums, ids, strict=True)):
        given = bytes(CHECKSUM_BYTES) if page_id < 0 else checksum
        if not isinstance(given, bytes) or len(given) != CHECKSUM_BYTES:
            raise LayoutError(f"checksums: position={position} value={given!r} is not 16 bytes")
        parts.append(given)
    return b"".join(parts)


def _started(name: str, parts: PlanSet, num_threads: int | None) -> CopyRanges:
    """What a profiler shows of the copy that the caller makes next; nothing is in its way now."""
    if num_threads is not None:
        require_whole("num_threads", num_threads, most=MAX_WORKERS)
    if parts.gpu is not None:
        raise LayoutError(f"{name} cannot reach a buffer on {parts.gpu.device}")
    parts.wait_for_copies()
    return copy_ranges(name, parts.direction, parts)
