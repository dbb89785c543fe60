"""Copies of pages on the CPU: against memcpy of the same bytes, and against torch and NumPy.

    python -m benchmarks.bench_copy [--quick] [--out FOLDER]        (make bench-copy)

A model of 32 layers with 8 KV heads of 128 bf16; 2.1 GB go from a layer_first pool to page_first
(runs of 2 KiB), page_unified (32 and 128 KiB) and page_unified with one group per head (256 B), and
back, page ids of the pool shuffled. Page 16: 1 000 pages. Page 64: 250 pages, the same bytes, since
1 000 are 8.4 GB, three times (torch's advanced indexing makes a copy of its own). The limit is
libc's memcpy between the same two buffers, cut into one contiguous part for each thread. GB/s count
payload once. numpy runs on one thread also in the rows of two.

Where a factor over one of today's ways is more than the memory moves, the row says so and asks for
the share of the limit that is asked of runs of that size anyhow; the limit there is the faster of
memcpy and "one run", the same bytes by the same stores without a layout.

The last rows are what Python adds: planning a PlanSet of 1 000 pages and a window of 100, and one
call of copy_set and of copy_pages that moves next to nothing.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch

from benchmarks.copy_cases import Case, make_cases, spec_of
from benchmarks.copy_yardsticks import yardsticks
from benchmarks.harness import Bound, Row, Table, interleaved, parse_args, timed
from hicache_ext.copy import CopyPart, PlanSet, copy_pages, copy_set, make_plan
from hicache_ext.layout import LayoutSpec, PagedBuffer

LONG_RUN_TARGET, SHORT_RUN_TARGET = 0.9, 0.6  # of memcpy; runs of 2 KiB and more, of 256 B
PLANNING_US, CALL_US = 20.0, 15.0
# (page size, pages, layers)
SIZES = ((16, 1000, 32), (64, 250, 32))
QUICK_SIZES = ((16, 40, 4), (64, 10, 4))


def case_rows(
    case: Case, num_threads: int, threads: ThreadPoolExecutor, num_rounds: int
) -> Iterator[Row]:
    """The copy and all its yardsticks, timed in turns."""
    torch.set_num_threads(num_threads)
    ways = yardsticks(case)
    measures = {
        "copy": timed(lambda: case.copy(num_threads)),
        "memcpy": timed(lambda: case.memcpy(num_threads, threads)),
        "one run": timed(lambda: case.copy_in_one_run(num_threads)),
        **{way.name: timed(way.call) for way in ways},
    }
    samples = interleaved(measures, num_rounds=num_rounds)
    speeds = {name: case.num_bytes / 1e9 / sample.median for name, sample in samples.items()}
    pages = f"{case.src.spec.num_pages} pages of {case.src.spec.page_bytes >> 10} KiB"
    share = LONG_RUN_TARGET if case.plan.run_bytes >= 2048 else SHORT_RUN_TARGET
    most = share * max(speeds["memcpy"], speeds["one run"])
    factors = {"memcpy": share, "one run": None, **{way.name: way.factor for way in ways}}
    for name, factor in factors.items():
        is_beyond = name != "memcpy" and factor is not None and factor * speeds[name] > most
        yield Row(
            name=f"{case.name}, {num_threads} thread{'s'[: num_threads - 1]}: {name}",
            figure=speeds["copy"],
            yardstick=speeds[name],
            unit="GB/s",
            target=most / speeds[name] if is_beyond else factor,
            note=f"{pages} in runs of {case.plan.run_bytes} B"
            + (f"; {factor:g}x is beyond the memory" if is_beyond else ""),
        )


def overhead_rows(num_rounds: int) -> Iterator[Row]:
    """Microseconds of a call, medians of many."""
    spec = LayoutSpec.make(
        "layer_first", num_pages=1000, page_size=1, num_layers=1, num_heads=1, head_bytes=8
    )
    pools = [PagedBuffer(np.zeros(spec.num_bytes, np.uint8), spec) for _ in range(4)]
    plan = make_plan(spec, spec)
    ids, window = np.arange(1000), np.arange(100)
    one = np.arange(1)

    def make_set() -> PlanSet:
        full = CopyPart(pools[0], ids, pools[1], ids, plan)
        return PlanSet([full, CopyPart(pools[2], window, pools[3], window, plan)])

    ready = PlanSet([CopyPart(pools[0], one, pools[1], one, plan)])
    calls = {
        "PlanSet of 1 000 and 100 pages": (make_set, PLANNING_US),
        "copy_set of one page of 16 B": (lambda: copy_set(ready), CALL_US),
        "copy_pages of one page of 16 B": (
            lambda: copy_pages(pools[0], one, pools[1], one, plan=plan),
            None,  # plans and copies
        ),
    }
    measures = {name: timed(call) for name, (call, _) in calls.items()}
    samples = interleaved(measures, num_rounds=num_rounds, num_warmup=20)
    for name, (_, limit_us) in calls.items():
        yield Row(
            name=name,
            figure=samples[name].median * 1e6,
            yardstick=limit_us or PLANNING_US + CALL_US,
            unit="us",
            target=None if limit_us is None else 1.0,
            bound=Bound.AT_MOST,
            note="yardstick: the time it may take",
        )


def for_quick(row: Row) -> Row:
    """Quick sizes fit into caches and prove nothing about memory: only that it runs."""
    floor = 0.001 if row.bound is Bound.AT_LEAST else 1000.0
    return Row(**{**vars(row), "target": row.target and floor})


def main() -> int:
    args = parse_args(__doc__)
    sizes, num_rounds = (QUICK_SIZES, 2) if args.quick else (SIZES, 5)
    moved = spec_of("layer_first", sizes[0][1], sizes[0][0], sizes[0][2]).num_bytes
    table = Table(f"copies of {moved / 1e9:.2f} GB, cpu executor; yardstick at the end of the name")
    rows: list[Row] = []
    with ThreadPoolExecutor(2) as threads:
        for page_size, num_pages, num_layers in sizes:
            for case in make_cases(num_pages, page_size, num_layers):
                for num_threads in (1, 2):
                    rows += case_rows(case, num_threads, threads, num_rounds)
    rows += overhead_rows(num_rounds * 100)
    for row in rows:
        table.add(for_quick(row) if args.quick else row)
    return table.finish(args.out, "copy")


if __name__ == "__main__":
    sys.exit(main())
