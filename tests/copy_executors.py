"""Every executor as the conformance suite runs it. A new one is a line in EXECUTORS."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pytest
from copy_cases import Case
from gpu_memory import GpuArray, register, why_no_gpu

from hicache_ext import _C
from hicache_ext.copy import CopyPart, PlanSet, copy_set


@dataclass(frozen=True)
class Executor:
    """run() copies all parts of the case, in place, and returns the bytes moved; it may check more
    than its caller can. why_not() is the reason to skip it here, or nothing."""

    name: str
    run: Callable[[Case, random.Random], int]
    why_not: Callable[[], str] = lambda: ""


def on_cpu(name: str, isa: str = "auto") -> Executor:
    def run(case: Case, rng: random.Random) -> int:
        if isa == "auto":
            num_threads = rng.randint(1, 3)
            return copy_set(case.parts, executor=name, num_threads=num_threads).result()
        threads = rng.randint(1, 3)
        return _C.copy_on_cpu(case.parts.native, reference=False, num_threads=threads, isa=isa)

    def why_not() -> str:
        return "" if _C.has_isa(isa) else f"this machine has no {isa}"

    return Executor(name if isa == "auto" else f"{name}-{isa}", run, why_not)


def emulated(shape: str) -> Executor:
    """The register kernel's loop body for every (block, thread): each byte is written once."""

    def run(case: Case, rng: random.Random) -> int:
        num_writes = np.zeros(case.target_arena.size, np.uint8)
        seen = _C.emulate_copy(
            case.parts.native,
            case.source_arena,
            case.target_arena,
            num_blocks=rng.choice([1, 1, 2, 3]),
            shape=shape,
            num_writes=num_writes,
            max_units=rng.choice([2**31 - 1, 2**31 - 1, 1, 7, 100]),
        )
        np.testing.assert_array_equal(num_writes, case.num_writes)
        assert (seen.num_misaligned, seen.num_outside) == (0, 0)
        assert seen.first_bad == 2**64 - 1
        return seen.num_bytes

    return Executor(f"emulator-{shape}", run)


def on_gpu(name: str) -> Executor:
    """Source or destination in pinned host memory or both on the GPU, ids anywhere."""

    def run(case: Case, rng: random.Random) -> int:
        on_host = rng.choice(["source", "target", "none"])
        homes = []
        for side, arena in (("source", case.source_arena), ("target", case.target_arena)):
            homes.append(register(arena.copy()) if side == on_host else GpuArray(arena))
        parts = []
        for part, source, target in zip(case.parts.parts, case.sources, case.targets, strict=True):
            src, dst = source.moved(homes[0]), target.moved(homes[1])
            ids = [rng.choice([GpuArray, list, np.asarray])(given) for given in part[1:5:2]]
            parts.append(CopyPart(src, ids[0], dst, ids[1], part.plan))
        options = dict(num_sms=rng.choice([None, 1, 3]), stream=0)
        num_bytes = copy_set(PlanSet(parts), executor=name, **options).result()
        for home, arena in zip(homes, (case.source_arena, case.target_arena), strict=True):
            arena[:] = home.read() if isinstance(home, GpuArray) else home
        return num_bytes

    def why_not() -> str:
        return why_no_gpu() if _C.with_cuda else "this build has no CUDA part"

    return Executor(name, run, why_not)


EXECUTORS = (
    on_cpu("cpu_ref"),
    on_cpu("cpu"),
    on_cpu("cpu", "portable"),
    on_cpu("cpu", "avx2"),
    on_cpu("cpu", "avx512"),
    emulated("by_run"),
    emulated("short_run"),
    emulated("long_run"),
    on_gpu("sm_reg"),
)


def skip_unless_here(executor: Executor) -> None:
    if why := executor.why_not():
        pytest.skip(f"{executor.name}: {why}")
