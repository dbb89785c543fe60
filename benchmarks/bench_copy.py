"""Copies of pages on the CPU against memcpy of the same bytes on the same number of threads.

    python -m benchmarks.bench_copy [--quick] [--out FOLDER]        (make bench-copy)

1 000 pages of a 32-layer model with 8 KV heads of 128 bf16 and page 16 (2 MiB a page, 2 000 MiB
in all) go from a layer_first pool to page_unified objects and back, page ids shuffled. The
yardstick is libc's memcpy between the same two buffers, cut into one contiguous part for each
thread: what these bytes cost if no layout had to change. GB/s count payload once (moved bytes /
time; the memory sees them twice). Lines without a target show shorter runs and one thread.
"""

from __future__ import annotations

import ctypes
import random
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

import numpy as np

from benchmarks.harness import Row, Table, interleaved, parse_args, timed
from hicache_ext import _C
from hicache_ext.copy import copy_pages, make_plan
from hicache_ext.layout import LayoutSpec, PagedBuffer

TARGET, FLOOR = 0.7, 0.05
MODEL = dict(page_size=16, num_heads=8, head_bytes=256)

# ctypes lets go of the GIL during the call, so that memcpys of several threads run side by side.
_memcpy = ctypes.CDLL(None).memcpy
_memcpy.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t]
_memcpy.restype = ctypes.c_void_p


def threaded_memcpy(
    dst: int, src: int, num_bytes: int, num_threads: int, threads: ThreadPoolExecutor
) -> None:
    """memcpy of [0, num_bytes) in num_threads contiguous parts, the last on this thread."""
    cuts = [num_bytes * i // num_threads for i in range(num_threads + 1)]
    parts = [(dst + a, src + a, b - a) for a, b in pairwise(cuts)]
    running = [threads.submit(_memcpy, *part) for part in parts[1:]]
    _memcpy(*parts[0])
    for part in running:
        part.result()


class Case:
    """One direction between two layouts on `num_threads` threads, and its memcpy."""

    def __init__(self, src: PagedBuffer, dst: PagedBuffer, num_threads: int) -> None:
        self.src, self.dst, self.num_threads = src, dst, num_threads
        self.plan = make_plan(src.spec, dst.spec)
        rng = random.Random(1)
        self.src_ids = np.array(rng.sample(range(src.spec.num_pages), src.spec.num_pages))
        self.dst_ids = np.array(rng.sample(range(dst.spec.num_pages), dst.spec.num_pages))

    def measures(self, threads: ThreadPoolExecutor) -> dict[str, Callable[[], float]]:
        def copy() -> None:
            copy_pages(
                self.src,
                self.src_ids,
                self.dst,
                self.dst_ids,
                plan=self.plan,
                executor="cpu",
                num_threads=self.num_threads,
            )

        def memcpy() -> None:
            num_bytes = self.src.spec.num_bytes
            addresses = (self.dst.address, self.src.address)
            threaded_memcpy(*addresses, num_bytes, self.num_threads, threads)

        return {"copy": timed(copy), "memcpy": timed(memcpy)}

    def check(self) -> None:
        """One page of the result against its source: the figures are of real copies."""
        packed = np.empty(self.src.spec.page_bytes, np.uint8)
        again = np.empty_like(packed)
        unified = LayoutSpec.make("page_unified", num_pages=1, num_layers=self.num_layers, **MODEL)
        for buffer, page_id, out in (
            (self.src, self.src_ids[7], packed),
            (self.dst, self.dst_ids[7], again),
        ):
            copy_pages(buffer, [int(page_id)], PagedBuffer(out, unified), [0], executor="cpu_ref")
        if not np.array_equal(packed, again):
            raise SystemExit("bench_copy: a copied page differs from its source")

    @property
    def num_layers(self) -> int:
        return self.src.spec.num_layers

    def row(self, threads: ThreadPoolExecutor, num_rounds: int, target: float | None) -> Row:
        samples = interleaved(self.measures(threads), num_rounds=num_rounds)
        copy_pages(self.src, self.src_ids, self.dst, self.dst_ids, plan=self.plan)
        self.check()
        gigabytes = self.src.spec.num_bytes / 1e9
        src, dst = self.src.spec, self.dst.spec
        groups = f" of {max(src.num_groups, dst.num_groups)} groups" if dst.num_groups > 1 else ""
        return Row(
            name=f"{src.name} -> {dst.name}{groups}, {self.num_threads} threads",
            figure=gigabytes / samples["copy"].median,
            yardstick=gigabytes / samples["memcpy"].median,
            unit="GB/s",
            target=target,
            note=f"{src.num_pages} pages of {src.page_bytes >> 10} KiB in runs of "
            f"{self.plan.run_bytes} B; yardstick: memcpy, {self.num_threads} threads",
        )


def main() -> int:
    args = parse_args(__doc__)
    num_pages, num_layers, num_rounds = (64, 4, 3) if args.quick else (1000, 32, 5)
    sizes = dict(num_pages=num_pages, num_layers=num_layers, **MODEL)
    num_bytes = LayoutSpec.make("layer_first", **sizes).num_bytes
    arrays = [np.empty(num_bytes, np.uint8) for _ in range(2)]
    for seed, array in enumerate(arrays):  # touched, and no two pages alike
        array.view(np.uint64)[:] = np.arange(num_bytes // 8, dtype=np.uint64) + seed
    num_threads = _C.num_usable_cpus()

    def case(src: str, dst: str, threads: int, num_groups: int = 1) -> Case:
        specs = (
            LayoutSpec.make(src, **sizes),
            LayoutSpec.make(dst, num_groups=num_groups, **sizes),
        )
        return Case(PagedBuffer(arrays[0], specs[0]), PagedBuffer(arrays[1], specs[1]), threads)

    cases: list[tuple[Case, float | None]] = [
        (case("layer_first", "page_unified", num_threads), TARGET),
        (case("page_unified", "layer_first", num_threads), TARGET),
        (case("layer_first", "page_unified", 1), None),
        (case("layer_first", "page_first", num_threads), None),
        (case("layer_first", "page_unified", num_threads, num_groups=8), None),
    ]
    table = Table(f"copy of {num_pages} pages, {num_bytes / 1e9:.2f} GB, cpu executor")
    with ThreadPoolExecutor(num_threads) as threads:
        for measured, target in cases:
            # Quick sizes fit into caches and prove nothing about memory: a floor instead.
            table.add(measured.row(threads, num_rounds, FLOOR if args.quick and target else target))
    return table.finish(args.out, "copy")


if __name__ == "__main__":
    sys.exit(main())
