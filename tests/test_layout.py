"""LayoutSpec and PagedBuffer: what they describe, and what they refuse."""

from __future__ import annotations

import random
from dataclasses import replace

import numpy as np
import pytest
import torch
from pages import logical

from hicache_ext.errors import LayoutError
from hicache_ext.layout import LAYOUT_NAMES, LayoutSpec, PagedBuffer, Planes

SIZES = dict(num_pages=3, page_size=4, num_layers=5, num_heads=6, head_bytes=8)


def test_layer_first_is_kv_layer_page_token_head_byte() -> None:
    spec = LayoutSpec.make("layer_first", **SIZES)
    array = np.arange(spec.num_bytes, dtype=np.uint32)
    shaped = array.reshape(2, 5, 3, 4, 6, 8)
    page, layer, kv, token, head = 2, 3, 1, 1, 4
    offset = page * spec.stride_page + layer * spec.stride_layer + kv * spec.stride_kv
    offset += token * spec.stride_token + head * spec.stride_head
    assert shaped[kv, layer, page, token, head, 0] == offset


@pytest.mark.parametrize("num_groups", [1, 2, 3])
def test_orders_of_axes(num_groups: int) -> None:
    heads = 6 // num_groups
    # The buffer's shape, and where [page, layer, kv, token, group, head, byte] are in it.
    shapes = {
        "layer_first": ((2, 5, 3, 4, num_groups, heads, 8), (2, 1, 0, 3, 4, 5, 6)),
        "page_first": ((2, 3, 4, 5, num_groups, heads, 8), (1, 3, 0, 2, 4, 5, 6)),
        "page_first_direct": ((2, 3, 5, 4, num_groups, heads, 8), (1, 2, 0, 3, 4, 5, 6)),
        "page_head": ((2, 3, num_groups, heads, 4, 5, 8), (1, 5, 0, 4, 2, 3, 6)),
        "page_unified": ((3, num_groups, 5, 2, 4, heads, 8), (0, 2, 3, 4, 1, 5, 6)),
        "layer,page,token,group,head,kv": (
            (5, 3, 4, num_groups, heads, 2, 8),
            (1, 0, 5, 2, 3, 4, 6),
        ),
    }
    assert set(LAYOUT_NAMES) < set(shapes)
    for name, (shape, to_logical) in shapes.items():
        spec = LayoutSpec.make(name, num_groups=num_groups, **SIZES)
        array = np.random.default_rng(0).integers(0, 256, spec.num_bytes, np.uint8)
        theirs = array.reshape(shape).transpose(to_logical)
        np.testing.assert_array_equal(logical(array, spec), theirs)


def test_sizes() -> None:
    for name in LAYOUT_NAMES:
        spec = LayoutSpec.make(name, **SIZES)
        assert spec.page_bytes == 4 * 5 * 2 * 6 * 8
        assert spec.num_bytes == 3 * spec.page_bytes
        assert spec.is_page_contiguous == (name == "page_unified")
    latent = LayoutSpec.make("page_first", **{**SIZES, "num_kv": 1, "num_heads": 1})
    assert latent.page_bytes == 4 * 5 * 8 and latent.is_page_contiguous


def test_gaps_between_pages_count_to_the_extent() -> None:
    spec = LayoutSpec.make("page_unified", **SIZES)
    padded = replace(spec, stride_page=4096)
    assert padded.num_bytes == 2 * 4096 + spec.page_bytes
    assert padded.is_page_contiguous


def test_explicit_strides() -> None:
    spec = LayoutSpec.strided({"page": (3, 4096), "token": (4, 100), "kv": (1, 7)}, head_bytes=96)
    assert (spec.num_pages, spec.page_size, spec.num_kv, spec.num_layers) == (3, 4, 1, 1)
    assert spec.num_bytes == 2 * 4096 + 3 * 100 + 96 and spec.page_bytes == 4 * 96
    assert not spec.is_page_contiguous
    dense = LayoutSpec.make("page_head", **SIZES)
    axes = {"page": 3, "layer": 5, "kv": 2, "group": 1, "token": 4, "head": 6}
    strides = {axis: (n, getattr(dense, f"stride_{axis}")) for axis, n in axes.items()}
    same = LayoutSpec.strided(strides, head_bytes=8, name="page_head")
    assert replace(same, stride_group=dense.stride_group) == dense
    for axes, match in (
        ({"page": (3, 64), "layers": (2, 8)}, "axis 'layers' is none of page, layer"),
        ({"page": (0, 64)}, "num_pages=0"),
        ({"page": (3, -64)}, "stride_page=-64"),
        ({"page": (3, 64), "token": (9, 8)}, "stride_page=64 overlaps the 72 bytes"),
        ({"page": (3, 64.0)}, "stride_page=64.0 must be an int"),
    ):
        with pytest.raises(LayoutError, match=match):
            LayoutSpec.strided(axes, head_bytes=8)


def test_a_table_has_planes() -> None:
    axes = {"page": (3, 40), "layer": (5, 0), "kv": (2, 0)}
    spec = LayoutSpec.strided(axes, head_bytes=40, planes=Planes.TABLE)
    assert (spec.num_planes, spec.plane_bytes, spec.num_bytes) == (10, 120, 1200)
    assert spec.page_bytes == 400 and not spec.is_page_contiguous
    one = LayoutSpec.strided({"page": (3, 40)}, head_bytes=40, planes=Planes.TABLE)
    assert one.is_page_contiguous and one.num_planes == 1


def test_digest_fields_follow_the_bytes_of_an_object() -> None:
    spec = LayoutSpec.make("page_unified", **SIZES)
    same = replace(spec, name="x", num_pages=9, stride_page=1 << 20)
    assert same.digest_fields() == spec.digest_fields()
    others = [
        LayoutSpec.make("page_unified", num_groups=2, **SIZES),
        LayoutSpec.make("page_unified", **{**SIZES, "page_size": 8}),
        LayoutSpec.make("page_unified", **{**SIZES, "head_bytes": 4}),
        LayoutSpec.make("page_unified", num_kv=1, **SIZES),
        LayoutSpec.make("page_unified", **{**SIZES, "num_layers": 4}),
    ]
    digests = [tuple(other.digest_fields().items()) for other in [spec, *others]]
    assert len(set(digests)) == len(digests)
    with pytest.raises(LayoutError, match="not contiguous"):
        LayoutSpec.make("layer_first", **SIZES).digest_fields()


@pytest.mark.parametrize("what", sorted(SIZES))
@pytest.mark.parametrize("value", [0, -1, 2.0, True])
def test_extents_are_positive_ints(what: str, value: object) -> None:
    for name in LAYOUT_NAMES:
        with pytest.raises(LayoutError, match=f"{what}="):
            LayoutSpec.make(name, **{**SIZES, what: value})


@pytest.mark.parametrize("num_groups", [0, -2, 4, 12])
def test_groups_divide_the_heads(num_groups: int) -> None:
    with pytest.raises(LayoutError, match=f"num_groups={num_groups}"):
        LayoutSpec.make("page_unified", num_groups=num_groups, **SIZES)


def test_other_bad_layouts() -> None:
    with pytest.raises(LayoutError, match="'page_last' is none of layer_first"):
        LayoutSpec.make("page_last", **SIZES)
    with pytest.raises(LayoutError, match="num_kv=3"):
        LayoutSpec.make("page_first", num_kv=3, **SIZES)
    spec = LayoutSpec.make("page_unified", **SIZES)
    with pytest.raises(LayoutError, match="stride_token=47 overlaps the 48 bytes"):
        replace(spec, stride_token=47)
    with pytest.raises(LayoutError, match="stride_page=0"):
        replace(spec, stride_page=0)
    with pytest.raises(LayoutError, match="62 bits"):
        LayoutSpec.make("page_unified", **{**SIZES, "num_pages": 1 << 60})


def test_random_strides_that_alias_are_refused() -> None:
    """Accepted means: no byte of the buffer belongs to two elements."""
    rng = random.Random(7)
    base = LayoutSpec.make("page_unified", **SIZES, num_groups=2)
    extents = {"page": 3, "layer": 5, "kv": 2, "group": 2, "token": 4, "head": 3}
    num_accepted = 0
    for _ in range(100):
        strides, step = {}, 8
        for axis in rng.sample(sorted(extents), len(extents)):
            strides[f"stride_{axis}"] = max(1, step + rng.choice([0, 0, 0, 0, 5, -3]))
            step *= extents[axis]
        try:
            spec = replace(base, **strides)
        except LayoutError:
            continue
        num_accepted += 1
        places = logical(np.arange(spec.num_bytes).view(np.uint8), spec)  # shape only
        offsets = sum(
            np.arange(extent).reshape([-1 if i == axis else 1 for i in range(7)]) * stride
            for axis, (extent, stride) in enumerate(zip(places.shape, places.strides, strict=True))
        )
        assert len(np.unique(offsets)) == offsets.size, (spec, "aliases")
    assert 10 < num_accepted < 90


def test_buffers_of_several_kinds() -> None:
    spec = LayoutSpec.make("layer_first", **SIZES)
    array = np.zeros(spec.num_bytes, np.uint8)
    tensor = torch.zeros(2, 5, 3, 4, 6, 4, dtype=torch.bfloat16)
    raw = bytearray(spec.num_bytes)
    for owner in (array, tensor, raw, memoryview(raw), array.view(np.float64)):
        buffer = PagedBuffer(owner, spec)
        assert buffer.device == "cpu" and buffer.array is owner
    assert PagedBuffer(array, spec).address == array.ctypes.data
    assert PagedBuffer(tensor, spec).address == tensor.data_ptr()


def test_buffers_that_do_not_fit() -> None:
    spec = LayoutSpec.make("layer_first", **SIZES)
    size = spec.num_bytes
    with pytest.raises(LayoutError, match=f"has {size - 1} bytes.* has {size}"):
        PagedBuffer(np.zeros(size - 1, np.uint8), spec)
    with pytest.raises(LayoutError, match=f"has {size + 1} bytes"):
        PagedBuffer(np.zeros(size + 1, np.uint8), spec)
    with pytest.raises(LayoutError, match="not contiguous"):
        PagedBuffer(np.zeros(2 * size, np.uint8)[::2], spec)
    with pytest.raises(LayoutError, match="not contiguous"):
        PagedBuffer(torch.zeros(2, size // 2, dtype=torch.uint8).t(), spec)
    assert not PagedBuffer(bytes(size), spec).is_writable
    with pytest.raises(LayoutError, match="not an array: int"):
        PagedBuffer(7, spec)
    with pytest.raises(LayoutError, match="device meta"):
        PagedBuffer(torch.zeros(size, dtype=torch.uint8, device="meta"), spec)
