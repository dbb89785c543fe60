"""Memory that may not be written, and memory that went away: told before anything is touched."""

import gc
import weakref

import numpy as np
import pytest
import torch
from emulated_cuda import EmulatedArray, emulated_cuda, pinned

from hicache_ext.copy import StagingRing, copy_pages, gather_pages, scatter_pages
from hicache_ext.errors import LayoutError, LifetimeError
from hicache_ext.layout import LayoutSpec, PagedBuffer

SPEC = LayoutSpec.make(
    "page_unified", num_pages=4, page_size=2, num_layers=1, num_heads=1, head_bytes=8
)
NUM_BYTES = SPEC.num_bytes


def test_what_is_read_only_is_a_source_but_no_destination() -> None:
    values = bytes(range(NUM_BYTES))
    frozen = np.frombuffer(values, np.uint8)
    target = np.zeros(NUM_BYTES, np.uint8)
    for source in (values, frozen, memoryview(values)):
        read_only, dst = PagedBuffer(source, SPEC), PagedBuffer(target, SPEC)
        copy_pages(read_only, [0, 2], dst, [1, 3]).result()
        assert target.tobytes()[32:64] == values[:32] and target.tobytes()[96:] == values[64:96]
        with pytest.raises(LayoutError, match=r"destination: .* is read-only"):
            gather_pages(dst, range(4), source)
    assert values == bytes(range(NUM_BYTES))
    scatter_pages(frozen, PagedBuffer(target, SPEC), range(4)).result()
    assert target.tobytes() == values


@pytest.mark.parametrize("how", ["resize", "set"])
def test_a_tensor_whose_memory_went_away_is_not_touched(how: str) -> None:
    tensor, other = torch.ones(NUM_BYTES, dtype=torch.uint8), np.zeros(NUM_BYTES, np.uint8)
    gone, there = PagedBuffer(tensor, SPEC), PagedBuffer(other, SPEC)
    if how == "resize":
        tensor.untyped_storage().resize_(0)
    else:
        tensor.set_(torch.ones(NUM_BYTES, dtype=torch.uint8))
    with pytest.raises(LifetimeError, match=rf"source: .* at {gone.address:#x}, now it is at 0x"):
        copy_pages(gone, [0], there, [0])
    with pytest.raises(LifetimeError, match=r"destination: .*page_unified"):
        copy_pages(there, [0], gone, [0])
    assert not other.any()


def test_a_table_of_tensors_that_were_freed() -> None:
    layers = [torch.ones(4, 8, dtype=torch.uint8) for _ in range(3)]
    table = PagedBuffer.from_tables(layers, axes="page,dim")
    out = np.zeros(4 * 3 * 8, np.uint8)
    gather_pages(table, range(4), out).result()
    assert out.all()
    for layer in layers:
        layer.untyped_storage().resize_(0)
    with pytest.raises(LifetimeError, match="source: the tensor"):
        gather_pages(table, range(4), out)


def test_a_released_tensor_lives_as_long_as_its_copy() -> None:
    with emulated_cuda() as cuda:
        tensor = torch.full((NUM_BYTES,), 7, dtype=torch.uint8)
        alive = weakref.ref(tensor)
        target = pinned(cuda, np.zeros(NUM_BYTES, np.uint8))
        src, dst = PagedBuffer(tensor, SPEC), PagedBuffer(target, SPEC)
        cuda.register_host(src.address, NUM_BYTES)
        ticket = copy_pages(src, range(4), dst, range(4), executor="sm_reg")
        del tensor, src
        gc.collect()
        assert alive() is not None and not target.any()
        ticket.wait()
        gc.collect()
        assert (target == 7).all() and alive() is None


def test_released_staging_memory_lives_as_long_as_its_copy() -> None:
    with emulated_cuda() as cuda:
        staging = EmulatedArray(cuda, np.zeros(4096, np.uint8))
        alive = weakref.ref(staging)
        source = EmulatedArray(cuda, np.full(NUM_BYTES, 7, np.uint8))
        target = pinned(cuda, np.zeros(NUM_BYTES, np.uint8))
        src, dst, ring = PagedBuffer(source, SPEC), PagedBuffer(target, SPEC), StagingRing(staging)
        ticket = copy_pages(src, range(4), dst, range(4), executor="staged", staging=ring)
        del staging, ring
        gc.collect()
        assert alive() is not None and not target.any()
        ticket.wait()
        gc.collect()
        assert (target == 7).all() and alive() is None
