"""The copies that bench_copy times: pairs of layouts over the same two buffers."""

from __future__ import annotations

import ctypes
import random
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from hicache_ext.copy import copy_pages, make_plan
from hicache_ext.host_buffer import HostBuffer, PinMode
from hicache_ext.layout import LayoutSpec, PagedBuffer
from hicache_ext.plan import Plan

NUM_HEADS, HEAD_BYTES = 8, 256  # 128 bf16
# page_unified8: every head is a group of its own, as a store keeps them for any tensor-parallel
# degree; runs of 256 B. The others: 2 KiB (page_first), or 2 KiB times the page size.
GROUPS = {"layer_first": 1, "page_first": 1, "page_unified": 1, "page_unified8": 8}
PAIRS = [
    (src, dst)
    for packed in ("page_first", "page_unified", "page_unified8")
    for src, dst in (("layer_first", packed), (packed, "layer_first"))
]

# ctypes lets go of the GIL during the call, so that memcpys of several threads run side by side.
_memcpy = ctypes.CDLL(None).memcpy
_memcpy.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t]
_memcpy.restype = ctypes.c_void_p


def spec_of(name: str, num_pages: int, page_size: int, num_layers: int) -> LayoutSpec:
    return LayoutSpec.make(
        name.removesuffix("8"),
        num_pages=num_pages,
        page_size=page_size,
        num_layers=num_layers,
        num_heads=NUM_HEADS,
        head_bytes=HEAD_BYTES,
        num_groups=GROUPS[name],
    )


@dataclass(frozen=True, eq=False)
class Case:
    """Page i of the packed layout is page ids[i] of the layer_first pool, in either direction."""

    src_name: str
    dst_name: str
    src: PagedBuffer
    dst: PagedBuffer
    ids: npt.NDArray[np.int64]

    @property
    def name(self) -> str:
        return f"{self.src_name} -> {self.dst_name}, page {self.src.spec.page_size}"

    @property
    def is_gather(self) -> bool:
        return self.src_name == "layer_first"

    @property
    def packed_name(self) -> str:
        return self.dst_name if self.is_gather else self.src_name

    @property
    def num_bytes(self) -> int:
        return self.src.spec.num_bytes

    @property
    def plan(self) -> Plan:
        return make_plan(self.src.spec, self.dst.spec)

    def copy(self, num_threads: int, executor: str = "cpu") -> None:
        packed_ids = np.arange(len(self.ids))
        ids = (self.ids, packed_ids) if self.is_gather else (packed_ids, self.ids)
        options: dict[str, Any] = dict(executor=executor, num_threads=num_threads)
        copy_pages(self.src, ids[0], self.dst, ids[1], **options)

    @cached_property
    def _in_one_run(self) -> tuple[PagedBuffer, PagedBuffer]:
        spec = LayoutSpec.opaque(num_pages=1, row_bytes=self.num_bytes)
        return PagedBuffer(self.src.array, spec), PagedBuffer(self.dst.array, spec)

    def copy_in_one_run(self, num_threads: int) -> None:
        """The same bytes by the same stores, without a layout."""
        src, dst = self._in_one_run
        copy_pages(src, [0], dst, [0], executor="cpu", num_threads=num_threads)

    def memcpy(self, num_threads: int, threads: ThreadPoolExecutor) -> None:
        """The same bytes in num_threads contiguous parts, the last on this thread."""
        cuts = [self.num_bytes * i // num_threads for i in range(num_threads + 1)]
        dst, src = self.dst.address, self.src.address
        parts = [(dst + begin, src + begin, end - begin) for begin, end in pairwise(cuts)]
        running = [threads.submit(_memcpy, *part) for part in parts[1:]]
        _memcpy(*parts[0])
        for part in running:
            part.result()


def make_cases(
    num_pages: int,
    page_size: int,
    num_layers: int,
    pairs: Sequence[tuple[str, str]] = PAIRS,
) -> Iterator[Case]:
    """All pairs over one source and one destination, in memory as a pool of this package has it:
    4 KiB-aligned, huge pages advised. No two words of the source are alike.
    """
    num_bytes = spec_of("layer_first", num_pages, page_size, num_layers).num_bytes
    arrays = [HostBuffer(num_bytes, pin=PinMode.NEVER).array for _ in range(2)]
    arrays[0].view(np.uint64)[:] = np.arange(num_bytes // 8, dtype=np.uint64)
    ids = np.array(random.Random(page_size).sample(range(num_pages), num_pages))
    for src_name, dst_name in pairs:
        specs = (spec_of(name, num_pages, page_size, num_layers) for name in (src_name, dst_name))
        src, dst = (PagedBuffer(*pair) for pair in zip(arrays, specs, strict=True))
        yield Case(src_name, dst_name, src, dst, ids)
