"""CuPy's own arrays and streams; where it imports, with or without a driver."""

import pytest

from hicache_ext import arrays
from hicache_ext.errors import LayoutError
from hicache_ext.layout import LayoutSpec, PagedBuffer
from hicache_ext.page_ids import gpu_page_ids, host_page_ids, is_on_gpu
from hicache_ext.streams import stream_handle

cupy = pytest.importorskip("cupy")

ADDRESS = 0x7F00_0000_0000  # nobody looks at the bytes


def array(shape: tuple[int, ...], dtype: str, device_idx: int = 0):
    memory = cupy.cuda.UnownedMemory(ADDRESS, 1 << 20, None, device_idx)
    at = cupy.cuda.MemoryPointer(memory, 128)
    return cupy.ndarray(shape, dtype=dtype, memptr=at)


def test_facts_of_arrays() -> None:
    seen = arrays.view(array((4, 8), "float16", 2))
    assert (seen.shape, seen.strides, seen.itemsize) == ((4, 8), (16, 2), 2)
    assert (seen.address, seen.typestr, seen.device) == (ADDRESS + 128, "float16", "cuda:2")
    assert seen.is_contiguous and seen.is_writable
    assert not arrays.view(array((4, 8), "float16")[:, ::2]).is_contiguous


def test_pages_lie_in_an_array() -> None:
    spec = LayoutSpec.make(
        "layer_first", num_pages=3, page_size=2, num_layers=1, num_heads=1, head_bytes=8
    )
    buffer = PagedBuffer(array((spec.num_bytes // 2,), "float16", 1), spec)
    assert (buffer.address, buffer.device) == (ADDRESS + 128, "cuda:1")
    with pytest.raises(LayoutError, match="the array has 64 bytes"):
        PagedBuffer(array((64,), "uint8"), spec)


def test_page_ids() -> None:
    ids = array((6,), "int32")
    assert is_on_gpu(ids)
    assert gpu_page_ids("source", ids).shape == (6,)
    for wrong in (ids[::2], array((6,), "uint32"), array((6, 1), "int64")):
        with pytest.raises(LayoutError, match="source page ids must be int32 or int64"):
            gpu_page_ids("source", wrong)
    with pytest.raises(LayoutError, match="source page ids in GPU memory"):
        host_page_ids("source", ids)


@pytest.mark.filterwarnings("ignore:ExternalStream is deprecated")
def test_streams() -> None:
    stream = cupy.cuda.ExternalStream(ADDRESS, 1)
    assert stream_handle(stream) == stream_handle(stream, 1) == ADDRESS
    with pytest.raises(LayoutError, match="of cuda:1, the copy is on cuda:0"):
        stream_handle(stream, 0)
    assert stream_handle(cupy.cuda.Stream.null) in (0, 1)
