"""Pages on an emulated GPU and in pinned memory, and the calls that copies between them make."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
from emulated_cuda import EmulatedArray, pinned

from hicache_ext import _C
from hicache_ext.copy import copy_pages
from hicache_ext.layout import LayoutSpec, PagedBuffer

SIZES = dict(page_size=2, num_layers=4, num_heads=2, head_bytes=64)
PAGE_BYTES = 2 * 4 * 2 * 2 * 64


def spec(name: str, num_pages: int = 8, **sizes: int) -> LayoutSpec:
    return LayoutSpec.make(name, num_pages=num_pages, **{**SIZES, **sizes})


class World:
    """Pages on the emulated GPU and others in pinned memory, all different; and a stream."""

    def __init__(self, cuda: _C.CudaEmulator, device: LayoutSpec, host: LayoutSpec) -> None:
        self.cuda, self.stream = cuda, cuda.create_stream()
        rng = np.random.default_rng(1)
        self.on_device = EmulatedArray(cuda, rng.integers(0, 255, device.num_bytes, np.uint8))
        self.on_host = rng.integers(0, 255, host.num_bytes, np.uint8)
        pinned(cuda, self.on_host)
        self.device = PagedBuffer(self.on_device, device)
        self.host = PagedBuffer(self.on_host, host)
        cuda.take_calls()

    def to_host(self, ids: list[int], **options: Any) -> list[str]:
        """Writes pages back, each to the page of its own number; returns the calls."""
        return self._copy(self.device, self.host, ids, options)

    def to_device(self, ids: list[int], **options: Any) -> list[str]:
        return self._copy(self.host, self.device, ids, options)

    def _copy(
        self, src: PagedBuffer, dst: PagedBuffer, ids: list[int], options: dict[str, Any]
    ) -> list[str]:
        options = {"stream": self.stream, **options}
        ticket = copy_pages(src, ids, dst, ids, **options)
        calls = self.cuda.take_calls()
        assert ticket.result() == len(ids) * PAGE_BYTES * (src.spec.head_bytes // 64)
        expected = self.pages(src)[ids], self.pages(dst)[ids]
        np.testing.assert_array_equal(*expected)
        return calls

    def pages(self, buffer: PagedBuffer) -> np.ndarray:
        """[page, layer, kv, token, head, byte], whatever the layout."""
        array = self.on_device.read() if buffer is self.device else self.on_host
        s = buffer.spec
        assert s.num_groups == 1
        extents = (s.num_pages, s.num_layers, s.num_kv, s.page_size, s.num_heads, s.head_bytes)
        strides = (s.stride_page, s.stride_layer, s.stride_kv, s.stride_token, s.stride_head, 1)
        return np.lib.stride_tricks.as_strided(array, extents, strides)


def only(calls: list[str], *words: str) -> list[str]:
    return [call for call in calls if call.startswith(words)]


def batches(calls: list[str]) -> list[tuple[int, int]]:
    """(copies, bytes) of each batch."""
    found = [re.match(r"copy_batch stream=\d+ copies=(\d+) bytes=(\d+)", call) for call in calls]
    return [(int(seen[1]), int(seen[2])) for seen in found if seen]
