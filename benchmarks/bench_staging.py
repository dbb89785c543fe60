"""Slots for storage: what a checksum costs, against memcpy, and against NumPy and xxhash.

    python -m benchmarks.bench_staging [--quick] [--out FOLDER]        (make bench-staging)

Pages as in bench_copy, 1.05 GB of them, page ids of the pool shuffled, into slots of one head group
or of eight and back. Runs of 32 KiB (layer_first, page 16) and 128 KiB (page 64), 2 KiB
(page_first), 256 B (eight groups). memcpy: of the same bytes, in one contiguous part for each
thread. NumPy and xxhash: objects[:] = pool[ids], then xxh3_128_digest of each, on one thread.
GB/s count payload once.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import xxhash

from benchmarks.copy_cases import GROUPS, Case, make_cases
from benchmarks.harness import Row, Table, interleaved, parse_args, timed
from hicache_ext.host_buffer import HostBuffer, PinMode
from hicache_ext.keys import checksum_seed
from hicache_ext.layout import LayoutSpec, PagedBuffer
from hicache_ext.staging import Slots, gather_slots, scatter_slots

CHECKSUM_TARGET = 0.8  # of the speed without
PAIRS = (
    ("layer_first", "page_unified"),
    ("page_first", "page_unified"),
    ("layer_first", "page_unified8"),
)
# (page size, pages, layers)
SIZES = ((16, 500, 32), (64, 125, 32))
QUICK_SIZES = ((16, 20, 4), (64, 5, 4))


class Staging:
    """The pages of a Case on their way into slots and back."""

    def __init__(self, case: Case) -> None:
        self.case = case
        num_groups = GROUPS[case.dst_name]
        self.slots = Slots(case.dst.array, case.src.spec, num_groups=num_groups)
        self.keys = [int(i).to_bytes(32, "little") for i in case.ids]
        self.checksums = self.gather(self.keys)
        other = HostBuffer(case.num_bytes, pin=PinMode.NEVER).array  # so that the slots stay whole
        self.plain = replace(case, dst=PagedBuffer(other, case.dst.spec))

    def gather(self, keys: list[bytes] | None, num_threads: int = 1) -> list[bytes | None]:
        case = self.case
        return gather_slots(case.src, case.ids, self.slots, keys=keys, num_threads=num_threads)

    def scatter(self, keys: list[bytes] | None, num_threads: int = 1) -> None:
        checksums = None if keys is None else self.checksums
        options = {"keys": keys, "checksums": checksums, "num_threads": num_threads}
        if not all(scatter_slots(self.slots, self.case.src, self.case.ids, **options)):
            raise AssertionError("a slot was not scattered")

    def numpy_and_xxhash(self) -> list[bytes]:
        pool = _words(self.case.src.array, self.case.src.spec, self.slots.buffer.spec.num_groups)
        objects = _words(self.case.dst.array, self.slots.buffer.spec)
        objects[:] = pool[self.case.ids]
        views = map(self.slots.object_view, range(len(self.keys)))
        seeds = map(checksum_seed, self.keys)
        return [xxhash.xxh3_128_digest(v, seed=s) for v, s in zip(views, seeds, strict=True)]


def _words(
    array: object, spec: LayoutSpec, num_groups: int | None = None
) -> npt.NDArray[np.uint64]:
    """[page, group, layer, kv, token, word] of a buffer, all heads of a group in one."""
    groups = num_groups or spec.num_groups
    group_bytes = spec.num_heads // groups * spec.head_bytes
    group_stride = spec.stride_group if groups == spec.num_groups else group_bytes
    extents = (spec.num_pages, groups, spec.num_layers, spec.num_kv, spec.page_size)
    strides = (spec.stride_page, group_stride, spec.stride_layer, spec.stride_kv, spec.stride_token)
    words = np.asarray(array).view(np.uint64)
    return np.lib.stride_tricks.as_strided(words, (*extents, group_bytes // 8), (*strides, 8))


def case_rows(
    case: Case, num_threads: int, threads: ThreadPoolExecutor, num_rounds: int
) -> Iterator[Row]:
    """Everything about one case, timed in turns."""
    staging = Staging(case)
    measures = {
        "gather": timed(lambda: staging.gather(None, num_threads)),
        "gather, checksum": timed(lambda: staging.gather(staging.keys, num_threads)),
        "scatter": timed(lambda: staging.scatter(None, num_threads)),
        "scatter, checksum": timed(lambda: staging.scatter(staging.keys, num_threads)),
        "memcpy": timed(lambda: staging.plain.memcpy(num_threads, threads)),
        "NumPy and xxhash": timed(staging.numpy_and_xxhash),
    }
    samples = interleaved(measures, num_rounds=num_rounds)
    speeds = {name: case.num_bytes / 1e9 / sample.median for name, sample in samples.items()}
    compared = (
        ("gather", "memcpy", None),
        ("gather, checksum", "gather", CHECKSUM_TARGET),
        ("gather, checksum", "NumPy and xxhash", None),
        ("scatter", "memcpy", None),
        ("scatter, checksum", "scatter", None),
    )
    for name, yardstick, target in compared:
        yield Row(
            name=f"{case.name}, {num_threads} thread{'s'[: num_threads - 1]}: {name} / {yardstick}",
            figure=speeds[name],
            yardstick=speeds[yardstick],
            unit="GB/s",
            target=target,
            note=f"{len(case.ids)} pages of {case.src.spec.page_bytes >> 10} KiB in runs of "
            f"{case.plan.run_bytes} B",
        )


def main() -> int:
    args = parse_args(__doc__)
    sizes, num_rounds = (QUICK_SIZES, 2) if args.quick else (SIZES, 5)
    table = Table("pages into slots and back; yardstick at the end of the name")
    with ThreadPoolExecutor(2) as threads:
        for page_size, num_pages, num_layers in sizes:
            for case in make_cases(num_pages, page_size, num_layers, PAIRS):
                for num_threads in (1, 2):
                    for row in case_rows(case, num_threads, threads, num_rounds):
                        # Quick sizes fit into caches: they only show that it runs.
                        target = row.target and 0.001 if args.quick else row.target
                        table.add(Row(**{**vars(row), "target": target}))
    return table.finish(args.out, "staging")


if __name__ == "__main__":
    sys.exit(main())
