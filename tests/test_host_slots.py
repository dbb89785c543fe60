"""Slots that O_DIRECT can use, and pools over memory of every kind."""

import mmap
import os
from pathlib import Path

import numpy as np
import pytest

from hicache_ext.errors import CapacityError, LayoutError
from hicache_ext.layout import LayoutSpec
from hicache_ext.pool import HostBuffer, HostPool, PinMode, Sharing, aligned_slots, slot_stride

SIZES = {"page_size": 3, "num_layers": 2, "num_heads": 2, "head_bytes": 100}


def padded_spec(num_pages: int = 5) -> LayoutSpec:
    return aligned_slots(LayoutSpec.make("page_unified", num_pages=num_pages, **SIZES))


def test_slots_are_whole_blocks_and_pages_lie_at_their_start() -> None:
    spec = padded_spec()
    assert (spec.page_bytes, spec.stride_page) == (2400, 4096)
    pool = HostPool(spec, name="full")
    for page_id in range(5):
        slot, page = pool.slot_view(page_id), pool.page_view(page_id)
        assert slot.nbytes == 4096 and page.nbytes == 2400
        address = np.frombuffer(slot, np.uint8).ctypes.data
        assert address == pool.memory.address + page_id * 4096 and address % 4096 == 0
        slot[:] = bytes([page_id + 1]) * 4096
        assert bytes(page) == bytes([page_id + 1]) * 2400
    assert [slot_stride(n) for n in (0, 1, 4096, 4097)] == [0, 4096, 4096, 8192]


def test_slots_that_cannot_be() -> None:
    plain = HostPool(LayoutSpec.make("page_unified", num_pages=5, **SIZES), name="full")
    with pytest.raises(LayoutError, match=r"'full'.*stride_page=2400"):
        plain.slot_view(0)
    scattered = LayoutSpec.make("layer_first", num_pages=5, **SIZES)
    with pytest.raises(LayoutError, match="layer_first"):
        HostPool(scattered, name="full").slot_view(0)
    with pytest.raises(LayoutError, match="layer_first"):
        aligned_slots(scattered)
    with pytest.raises(LayoutError, match="page 5 is not in"):
        HostPool(padded_spec(), name="full").slot_view(5)


def test_storage_reads_a_slot_with_o_direct_and_the_pool_has_it(tmp_path: Path) -> None:
    pool = HostPool(padded_spec(), name="full")
    path = tmp_path / "slot"
    path.write_bytes(bytes(range(256)) * 16)
    try:
        fd = os.open(path, os.O_RDONLY | os.O_DIRECT)
        os.preadv(fd, [mmap.mmap(-1, 4096)], 0)  # aligned as well as can be
    except OSError as error:
        pytest.skip(f"no O_DIRECT on this file system: {error}")
    assert os.preadv(fd, [pool.slot_view(4)], 0) == 4096
    os.close(fd)
    assert bytes(pool.page_view(4)) == (bytes(range(256)) * 16)[:2400]


def test_a_pool_over_memory_of_its_own_kind() -> None:
    spec = padded_spec()
    memory = HostBuffer(5 * 4096, name="'l2'", sharing=Sharing.SHARED)
    pool = HostPool(spec, name="full", memory=memory)
    pool.page_view(4)[:] = b"\x05" * 2400
    assert HostBuffer.attach(memory.fd).array[4 * 4096 :][:2400].tolist() == [5] * 2400
    pool.close()
    assert memory.is_closed
    with pytest.raises(CapacityError, match=r"'full' needs 20480 bytes.*20479"):
        HostPool(spec, name="full", memory=HostBuffer(20479))
    with pytest.raises(LayoutError, match=r"'full': \['pin'\]"):
        HostPool(spec, name="full", memory=HostBuffer(20480), pin=PinMode.NEVER)
