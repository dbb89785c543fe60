"""Copies by run size, number of pages, direction, executor and quota, against one large memcpy.

A page here is 16 runs (8 layers of K and V) that lie apart on one side and together on the other.
In each round all contenders move the same bytes, one after the other; "memcpy" moves them as one
piece (cudaMemcpyAsync on a GPU). Times are from the call until the bytes are there.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from benchmarks.harness import Sample, interleaved, timed
from hicache_ext.copy import PagedBuffer, copy_pages, make_plan
from hicache_ext.device_model import Direction
from hicache_ext.layout import LayoutSpec

NUM_LAYERS = 8
RUNS_PER_PAGE = 2 * NUM_LAYERS
MEMCPY = "memcpy"
AUTO = "auto"


class Machine(Protocol):
    """Where a sweep runs: a GPU and its host, or a host alone."""

    directions: tuple[Direction, ...]
    arena_bytes: int  # the largest copy
    stream: Any  # that copies are enqueued on

    def arenas(self, direction: Direction) -> tuple[Any, Any]:
        """Two arrays of arena_bytes, flat uint8, where the direction begins and ends."""

    def memcpy(self, direction: Direction, num_bytes: int) -> None:
        """One large copy between them; returns when it is done."""

    def contenders(self, direction: Direction) -> Sequence[tuple[str, int | None]]:
        """(executor, num_sms), None for the executor's own quota."""


@dataclass(frozen=True)
class Case:
    """What all contenders of a line move."""

    direction: Direction
    run_bytes: int
    num_pages: int

    @property
    def num_bytes(self) -> int:
        return self.num_pages * RUNS_PER_PAGE * self.run_bytes


@dataclass(frozen=True)
class Result:
    """One contender of a case. share: its speed over that of the memcpy beside it."""

    direction: str
    run_bytes: int
    num_pages: int
    num_bytes: int
    executor: str
    num_sms: int | None
    median_s: float
    p90_s: float
    gbps: float
    share: float


def cases(machine: Machine, run_sizes: Sequence[int], page_counts: Sequence[int]) -> Iterator[Case]:
    """All that fit into the arenas."""
    for direction, run_bytes, num_pages in itertools.product(
        machine.directions, run_sizes, page_counts
    ):
        case = Case(direction, run_bytes, num_pages)
        if case.num_bytes <= machine.arena_bytes:
            yield case


class Pages:
    """A case as buffers and page ids; those are reversed, so that no two pages go on together."""

    def __init__(self, machine: Machine, case: Case) -> None:
        # The side that is far from the layers' tensors has its pages in one piece.
        names = ["layer_first", "page_unified"]
        if case.direction is Direction.HOST_TO_DEVICE:
            names.reverse()
        shape = dict(page_size=1, num_layers=NUM_LAYERS, num_heads=1, head_bytes=case.run_bytes)
        specs = [LayoutSpec.make(name, num_pages=case.num_pages, **shape) for name in names]
        arenas = machine.arenas(case.direction)
        self.stream = machine.stream
        self.src, self.dst = (
            PagedBuffer(arena[: spec.num_bytes], spec)
            for arena, spec in zip(arenas, specs, strict=True)
        )
        self.src_ids = np.arange(case.num_pages)
        self.dst_ids = self.src_ids[::-1].copy()
        self.plan = make_plan(*specs)
        assert self.plan.run_bytes == case.run_bytes

    def copy(self, executor: str, num_sms: int | None) -> int:
        """Bytes that were moved."""
        ticket = copy_pages(
            self.src,
            self.src_ids,
            self.dst,
            self.dst_ids,
            plan=self.plan,
            executor=executor,
            stream=self.stream,
            num_sms=num_sms,
        )
        return ticket.result()


def measure(machine: Machine, case: Case, num_rounds: int) -> list[Result]:
    """Every contender of the case; SystemExit where one moves other bytes than asked for."""
    pages = Pages(machine, case)
    contenders = [(MEMCPY, None), (AUTO, None), *machine.contenders(case.direction)]

    def run(executor: str, num_sms: int | None) -> Callable[[], object]:
        if executor == MEMCPY:
            return lambda: machine.memcpy(case.direction, case.num_bytes)
        return lambda: pages.copy(executor, num_sms)

    for executor, num_sms in contenders[1:]:
        if (moved := pages.copy(executor, num_sms)) != case.num_bytes:
            raise SystemExit(f"{executor}: {moved} bytes instead of {case.num_bytes} of {case}")
    samples = interleaved(
        {str(pair): timed(run(*pair)) for pair in contenders}, num_rounds=num_rounds
    )
    yardstick_s = samples[str((MEMCPY, None))].median
    return [_result(case, pair, samples[str(pair)], yardstick_s) for pair in contenders]


def _result(
    case: Case, contender: tuple[str, int | None], sample: Sample, yardstick_s: float
) -> Result:
    return Result(
        direction=case.direction.value,
        run_bytes=case.run_bytes,
        num_pages=case.num_pages,
        num_bytes=case.num_bytes,
        executor=contender[0],
        num_sms=contender[1],
        median_s=sample.median,
        p90_s=sample.p90,
        gbps=case.num_bytes / sample.median / 1e9,
        share=yardstick_s / sample.median,
    )


def sweep(
    machine: Machine, run_sizes: Sequence[int], page_counts: Sequence[int], num_rounds: int
) -> list[Result]:
    """All cases, with a line for each while it goes on."""
    results: list[Result] = []
    for case in cases(machine, run_sizes, page_counts):
        found = measure(machine, case, num_rounds)
        results += found
        print(_line(case, found), flush=True)
    return results


def _line(case: Case, results: Sequence[Result]) -> str:
    best = min((r for r in results if r.executor not in (MEMCPY, AUTO)), key=lambda r: r.median_s)
    chosen = next(r for r in results if r.executor == AUTO)
    quota = "" if best.num_sms is None else f" on {best.num_sms} SMs"
    runs = f"{case.run_bytes:>8} B x {case.num_pages * RUNS_PER_PAGE:>6}"
    ratio = chosen.median_s / best.median_s
    return (
        f"{case.direction.value:>16} {runs}: {best.executor}{quota} {best.gbps:.3g} GB/s, "
        f"{best.share:.2f} of memcpy; auto takes {ratio:.2f} times as long"
    )


def regret(results: Sequence[Result]) -> float:
    """How much longer `auto` takes than the best contender, median over all cases: 0.1 = 10 %."""
    by_case: dict[tuple[str, int, int], dict[str, float]] = {}
    for r in results:
        times = by_case.setdefault((r.direction, r.run_bytes, r.num_pages), {})
        kind = r.executor if r.executor in (AUTO, MEMCPY) else "best"
        times[kind] = min(r.median_s, times.get(kind, r.median_s))
    return float(np.median([times[AUTO] / times["best"] - 1 for times in by_case.values()]))


def as_rows(results: Sequence[Result]) -> list[dict[str, object]]:
    return [asdict(result) for result in results]


def plot(results: Sequence[Result], title: str, path: Path) -> None:
    """A panel for each direction: GB/s of the most pages over the run size, a line for each
    executor with its fastest quota, memcpy dashed."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    directions = list(dict.fromkeys(r.direction for r in results))
    fig, panels = plt.subplots(
        1, len(directions), figsize=(6 * len(directions), 4.5), layout="constrained", squeeze=False
    )
    for panel, direction in zip(panels[0], directions, strict=True):
        here = [r for r in results if r.direction == direction]
        for executor in dict.fromkeys(r.executor for r in here):
            best: dict[int, Result] = {}
            for r in (r for r in here if r.executor == executor):
                most = best.get(r.run_bytes)
                if most is None or (r.num_pages, r.gbps) > (most.num_pages, most.gbps):
                    best[r.run_bytes] = r
            sizes = sorted(best)
            style = dict(linestyle="--", color="black") if executor == MEMCPY else {"marker": "o"}
            panel.plot(sizes, [best[size].gbps for size in sizes], label=executor, **style)
        panel.set_xscale("log", base=2)
        panel.set_xlabel("bytes of a run")
        panel.set_title(direction)
        panel.grid(alpha=0.3)
    panels[0][0].set_ylabel("GB/s, payload once")
    panels[0][-1].legend()
    fig.suptitle(title)
    fig.savefig(path, dpi=120)
    plt.close(fig)
