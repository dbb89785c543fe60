"""Buffers from tensors: their own shape and strides say how pages lie in them."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from hicache_ext.copy import copy_pages, gather_pages
from hicache_ext.errors import LayoutError
from hicache_ext.layout import LayoutSpec, PagedBuffer, Planes

PAGES, PAGE, LAYERS, HEADS, DIM = 3, 4, 2, 5, 6


def numbers(*shape: int) -> torch.Tensor:
    """Every element has its own value."""
    count = int(np.prod(shape))
    return torch.arange(count, dtype=torch.int32).reshape(shape)


def packed(buffer: PagedBuffer, page_ids: list[int]) -> np.ndarray:
    """[page, layer, kv, token, head, dim] int32, through a copy."""
    spec = buffer.spec
    dim = spec.head_bytes // 4
    shape = (len(page_ids), spec.num_layers, spec.num_kv, spec.page_size, spec.num_heads, dim)
    out = np.zeros(shape, np.int32)
    gather_pages(buffer, page_ids, out)
    return out


def test_slots_of_a_pool_are_pages_and_tokens() -> None:
    kv = numbers(2, LAYERS, PAGES * PAGE, HEADS, DIM)
    buffer = PagedBuffer.from_tensor(kv, "kv,layer,slot,head,dim", page_size=PAGE)
    assert buffer.spec.num_pages == PAGES and buffer.address == kv.data_ptr()
    wanted = kv.reshape(2, LAYERS, PAGES, PAGE, HEADS, DIM).permute(2, 1, 0, 3, 4, 5)
    np.testing.assert_array_equal(packed(buffer, [2, 0]), wanted[[2, 0]])


def test_heads_outside_of_tokens_and_a_slice_with_gaps() -> None:
    whole = numbers(LAYERS, PAGES, 2, HEADS + 3, PAGE, DIM)
    part = whole[:, :, :, 1 : HEADS + 1]
    buffer = PagedBuffer.from_tensor(part, "layer,page,kv,head,token,dim")
    assert buffer.address == part.data_ptr() and not part.is_contiguous()
    wanted = part.permute(1, 0, 2, 4, 3, 5)
    np.testing.assert_array_equal(packed(buffer, [0, 1, 2]), wanted)
    before = whole.clone()
    zeros = LayoutSpec.make(
        "page_unified", num_pages=1, page_size=PAGE, num_layers=2, num_heads=HEADS, head_bytes=24
    )
    copy_pages(PagedBuffer(np.zeros(zeros.num_bytes, np.uint8), zeros), [0], buffer, [1])
    before[:, 1, :, 1 : HEADS + 1] = 0
    assert torch.equal(whole, before)


def test_heads_cut_in_pieces() -> None:
    """vLLM's K cache of old, [page, head, dim / x, token, x]: each piece of a head is a head."""
    pieces, x = 3, 2
    cache = numbers(PAGES, HEADS, pieces, PAGE, x)
    buffer = PagedBuffer.from_tensor(cache, "page,group,head,token,dim")
    wanted = cache.permute(0, 3, 1, 2, 4).reshape(PAGES, 1, 1, PAGE, HEADS * pieces, x)
    np.testing.assert_array_equal(packed(buffer, [0, 1, 2]), wanted)


def test_states_have_several_dims() -> None:
    states = numbers(LAYERS, PAGES, HEADS, DIM, 7)
    buffer = PagedBuffer.from_tensor(states, "layer,page,dim,dim,dim")
    wanted = states.permute(1, 0, 2, 3, 4).reshape(PAGES, LAYERS, 1, 1, 1, -1)
    np.testing.assert_array_equal(packed(buffer, [1, 2, 0]), wanted[[1, 2, 0]])


@pytest.mark.parametrize("row_bytes", [1, 132, 576, 656, 37_440])
@pytest.mark.parametrize("page_size", [1, 5])
def test_opaque_rows(row_bytes: int, page_size: int) -> None:
    sizes = dict(row_bytes=row_bytes, page_size=page_size, num_layers=LAYERS)
    src_spec = LayoutSpec.opaque(num_pages=4, **sizes)
    dst_spec = LayoutSpec.opaque(num_pages=2, name="page_first", **sizes)
    content = np.random.default_rng(row_bytes).integers(0, 256, src_spec.num_bytes, np.uint8)
    out = np.zeros(dst_spec.num_bytes, np.uint8)
    copy_pages(PagedBuffer(content, src_spec), [3, 1], PagedBuffer(out, dst_spec), [0, 1])
    rows = content.reshape(LAYERS, 4, page_size, row_bytes)
    wanted = rows[:, [3, 1]].transpose(1, 2, 0, 3)  # page, token, layer
    np.testing.assert_array_equal(out.reshape(wanted.shape), wanted)


def layers(*shape: int, count: int = LAYERS) -> list[torch.Tensor]:
    return [numbers(*shape) + 10_000 * i for i in range(count)]


def test_a_tensor_for_k_and_one_for_v_of_each_layer() -> None:
    k = layers(PAGES * PAGE, HEADS, DIM)
    v = [tensor + 100_000 for tensor in k]
    buffer = PagedBuffer.from_tables(k, v, axes="slot,head,dim", page_size=PAGE)
    assert buffer.spec.planes is Planes.TABLE and buffer.address == k[0].data_ptr()
    both = torch.stack([torch.stack(k), torch.stack(v)])
    wanted = both.reshape(2, LAYERS, PAGES, PAGE, HEADS, DIM).permute(2, 1, 0, 3, 4, 5)
    np.testing.assert_array_equal(packed(buffer, [2, 1]), wanted[[2, 1]])


def test_a_tensor_for_each_layer_that_holds_both() -> None:
    tensors = layers(2, PAGES, PAGE, HEADS, DIM)
    buffer = PagedBuffer.from_tables(tensors, axes="kv,page,token,head,dim")
    wanted = torch.stack(tensors).permute(2, 0, 1, 3, 4, 5)
    np.testing.assert_array_equal(packed(buffer, [0, 1, 2]), wanted)


def test_a_latent_for_each_layer() -> None:
    tensors = layers(PAGES * PAGE, 1, DIM, count=3)
    buffer = PagedBuffer.from_tables(tensors, axes="slot,head,dim", page_size=PAGE)
    wanted = torch.stack(tensors).reshape(3, PAGES, PAGE, 1, DIM).transpose(0, 1)[:, :, None]
    np.testing.assert_array_equal(packed(buffer, [0, 2]), wanted[[0, 2]])


def test_arrays_of_other_frameworks() -> None:
    """Shape and strides of NumPy, of the array interface and of a memoryview."""
    array = np.arange(PAGES * 2 * PAGE * DIM, dtype=np.int32).reshape(PAGES, 2 * PAGE, DIM)
    every_other = array[:, ::2]
    interface = SimpleNamespace(__array_interface__=every_other.__array_interface__)
    wanted = every_other.reshape(PAGES, 1, 1, PAGE, 1, DIM)
    for owner in (every_other, interface, memoryview(every_other)):
        buffer = PagedBuffer.from_tensor(owner, "page,token,dim")
        np.testing.assert_array_equal(packed(buffer, [0, 1, 2]), wanted)


REFUSED = [
    ((3, 4, 6), "page,token", None, r"axes 'page,token' are 2, the shape is \[3, 4, 6\]"),
    ((3, 4, 6), "page,tokens,dim", None, "axis 'tokens' is none of page"),
    ((3, 4, 6), "page,page,dim", None, "axis page is 2 dimensions"),
    ((3, 4, 6), "slot,token,dim", 1, "axis token is 2 dimensions"),
    ((3, 4, 6), "page,dim,token", None, "axis dim: 4 steps of 24 B after 4 B"),
    ((3, 0, 6), "page,token,dim", None, r"axis token has size 0 in shape \[3, 0, 6\]"),
    ((12, 6), "slot,dim", None, "page_size=None does not divide the 12 slots"),
    ((12, 6), "slot,dim", 5, "page_size=5 does not divide the 12 slots"),
    ((12, 6), "slot,dim", 0, "page_size=0 does not divide the 12 slots"),
    ((3, 4, 6), "page,token,dim", 2, "page_size=2 of tokens 4"),
    ((3, 3, 6), "kv,page,dim", None, "num_kv=3"),
]


@pytest.mark.parametrize(("shape", "axes", "page_size", "match"), REFUSED)
def test_axes_that_do_not_fit(shape: Any, axes: str, page_size: int | None, match: str) -> None:
    with pytest.raises(LayoutError, match=match):
        PagedBuffer.from_tensor(numbers(*shape), axes, page_size=page_size)


def test_tables_that_do_not_fit() -> None:
    k, v = layers(8, HEADS, DIM), layers(8, HEADS, DIM)
    table = dict(axes="slot,head,dim", page_size=PAGE)
    with pytest.raises(LayoutError, match="2 K tensors and 1 V tensors"):
        PagedBuffer.from_tables(k, v[:1], **table)
    with pytest.raises(LayoutError, match="a table of no tensors"):
        PagedBuffer.from_tables([], **table)
    with pytest.raises(LayoutError, match=r"differ: shape \(4, 5, 6\) of number 3, \(8, 5, 6\)"):
        PagedBuffer.from_tables(k, [v[0], v[1][:4]], **table)
    with pytest.raises(LayoutError, match=r"differ: itemsize 8 of number 1, 4 of number 0"):
        PagedBuffer.from_tables([k[0], k[1].to(torch.int64)], **table)
    with pytest.raises(LayoutError, match="tensors 1 and 2 of a table overlap: 0x"):
        PagedBuffer.from_tables(k, [k[1], v[1]], **table)
    shared = numbers(LAYERS * 8 - 1, HEADS, DIM)
    with pytest.raises(LayoutError, match="tensors 0 and 1 of a table overlap"):
        PagedBuffer.from_tables([shared[:8], shared[7:]], **table)
    both = layers(2, 8, HEADS, DIM)
    with pytest.raises(LayoutError, match="K and V in each tensor, and V tensors as well"):
        PagedBuffer.from_tables(both, [t.clone() for t in both], axes="kv,page,head,dim")
    with pytest.raises(LayoutError, match="the tensors of a table are its layers"):
        PagedBuffer.from_tables(both, axes="layer,page,head,dim")
    spec = PagedBuffer.from_tables(k, v, **table).spec
    with pytest.raises(LayoutError, match="slot,head,dim table of one array"):
        PagedBuffer(np.zeros(spec.num_bytes, np.uint8), spec)


def test_overlap_is_seen_plane_by_plane() -> None:
    """Layers of two pools that lie between each other share nothing."""
    memory = numbers(4, 8, HEADS, DIM)
    table = dict(axes="slot,head,dim", page_size=PAGE)
    even = PagedBuffer.from_tables([memory[0], memory[2]], **table)
    odd = PagedBuffer.from_tables([memory[1], memory[3]], **table)
    assert not even.overlaps(odd) and not odd.overlaps(even) and even.overlaps(even)
    copy_pages(even, [0, 1], odd, [1, 0])
    assert torch.equal(memory[3], torch.cat((memory[2][4:], memory[2][:4])))
    last = PagedBuffer.from_tables([memory[3]], **table)
    assert last.overlaps(odd) and odd.overlaps(last) and not last.overlaps(even)
    with pytest.raises(LayoutError, match="overlap"):
        copy_pages(odd, [0], odd, [1])
