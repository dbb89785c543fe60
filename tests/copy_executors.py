"""Every executor as the conformance suite runs it. A new one is a line in EXECUTORS."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
import pytest
from copy_cases import Case
from emulated_cuda import EmulatedArray, emulated_cuda, pinned
from gpu_memory import GpuArray, register, why_no_gpu

from hicache_ext import _C
from hicache_ext.copy import CopyPart, PlanSet, Priority, StagingRing, copy_set
from hicache_ext.errors import LayoutError


@dataclass(frozen=True)
class Executor:
    """run() copies all parts of the case, in place, and returns the bytes moved; it may check more
    than its caller can. why_not() is the reason to skip it here, or nothing. align_bytes: what the
    addresses and sizes of its runs must be multiples of."""

    name: str
    run: Callable[[Case, random.Random], int]
    why_not: Callable[[], str] = lambda: ""
    align_bytes: int = 1

    def takes(self, case: Case) -> bool:
        return all(part.align_bytes >= self.align_bytes for part in case.parts.native.facts)


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
    """A kernel's loop body for every (block, thread): each byte is written once."""

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
            max_rings=rng.choice([1, 2, 128]),
        )
        np.testing.assert_array_equal(num_writes, case.num_writes)
        assert (seen.num_misaligned, seen.num_outside) == (0, 0)
        assert seen.first_bad == 2**64 - 1
        return seen.num_bytes

    return Executor(f"emulator-{shape}", run, align_bytes=ALIGN_BYTES.get(shape, 1))


@dataclass(frozen=True)
class Memory:
    """Where a copy with a GPU finds its arrays."""

    to_device: Callable[[np.ndarray], GpuArray]
    pin: Callable[[np.ndarray], np.ndarray]


def run_on_stream(
    name: str, case: Case, rng: random.Random, memory: Memory, **options: object
) -> int:
    """Source or destination in pinned host memory or both on the GPU, ids where they may be."""
    on_host = rng.choice(["source", "target"] if name == "staged" else ["source", "target", "none"])
    reads_device_ids = name.startswith("sm_") or name == "auto"
    id_kinds = [list, np.asarray, *([memory.to_device] if reads_device_ids else [])]
    homes = []
    for side, arena in (("source", case.source_arena), ("target", case.target_arena)):
        homes.append(memory.pin(arena.copy()) if side == on_host else memory.to_device(arena))
    parts = []
    for part, source, target in zip(case.parts.parts, case.sources, case.targets, strict=True):
        src, dst = source.moved(homes[0]), target.moved(homes[1])
        ids = [rng.choice(id_kinds)(given) for given in part[1:5:2]]
        parts.append(CopyPart(src, ids[0], dst, ids[1], part.plan))
    together = PlanSet(parts)
    in_layers = any(plan.native.num_steps > 1 for plan in together.plans)
    if name == "staged" and in_layers:
        with pytest.raises(LayoutError, match=name):
            copy_set(together, executor=name, **options)
        name = "sm_reg"
    num_bytes = copy_set(together, executor=name, **options).result()
    for home, arena in zip(homes, (case.source_arena, case.target_arena), strict=True):
        arena[:] = home.read() if isinstance(home, GpuArray) else home
    return num_bytes


def on_gpu(name: str) -> Executor:
    def run(case: Case, rng: random.Random) -> int:
        options = dict(num_sms=rng.choice([None, 1, 3]), priority=rng.choice(PRIORITIES), stream=0)
        return run_on_stream(name, case, rng, Memory(GpuArray, register), **options)

    def why_not() -> str:
        return why_no_gpu() if _C.with_cuda else "this build has no CUDA part"

    return Executor(name, run, why_not, ALIGN_BYTES.get(name, 1))


def on_emulated_gpu(name: str) -> Executor:
    """Streams that run late and in any order: a wait that is missing shows in the bytes."""

    def run(case: Case, rng: random.Random) -> int:
        has_batches = rng.random() < 0.8
        with emulated_cuda(seed=rng.randrange(2**32), has_batches=has_batches) as cuda:
            options = dict(num_sms=rng.choice([None, 1, 3]), priority=rng.choice(PRIORITIES))
            options["stream"] = rng.choice([0, cuda.create_stream()])
            if name == "staged":
                page_bytes = max(plan.page_bytes for plan in case.parts.plans)
                num_bytes = 2 * rng.randint(1, 4) * (page_bytes + 255 + 256)
                options["staging"] = StagingRing(num_bytes=num_bytes)
            memory = Memory(partial(EmulatedArray, cuda), partial(pinned, cuda))
            return run_on_stream(name, case, rng, memory, **options)

    return Executor(f"{name}-emulated", run, align_bytes=ALIGN_BYTES.get(name, 1))


ALIGN_BYTES = {"bulk": 16, "sm_bulk": 16}
PRIORITIES = (None, None, Priority.LOW, Priority.HIGH)
CUDA_NAMES = ("sm_reg", "sm_bulk", "ce_batch", "staged")
EXECUTORS = (
    on_cpu("cpu_ref"),
    on_cpu("cpu"),
    on_cpu("cpu", "portable"),
    on_cpu("cpu", "avx2"),
    on_cpu("cpu", "avx512"),
    emulated("by_run"),
    emulated("short_run"),
    emulated("long_run"),
    emulated("bulk"),
    *(on_emulated_gpu(name) for name in (*CUDA_NAMES, "auto")),
    *(on_gpu(name) for name in (*CUDA_NAMES, "auto")),
)


def check_copy(case: Case, executor: Executor, rng: random.Random) -> None:
    """The bytes of the oracle, and not one byte besides."""
    before = case.source_arena.copy()
    assert executor.run(case, rng) == case.num_bytes
    np.testing.assert_array_equal(case.target_arena, case.expected)
    np.testing.assert_array_equal(case.source_arena, before)


def skip_unless_here(executor: Executor) -> None:
    if why := executor.why_not():
        pytest.skip(f"{executor.name}: {why}")
