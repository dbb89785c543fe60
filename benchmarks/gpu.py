"""Everything that needs a GPU, in one command; without a GPU it says so and fails.

    python -m benchmarks.gpu [--if-present] [--quick] [--out FOLDER]        (make gpu)

1. The conformance suite, unchanged, on each executor of the GPU.
2. compute-sanitizer (memcheck, racecheck) over a part of them.
3. NcclGroup with one rank, and with a rank on each GPU where there are more: gpu_nccl.py.
4. A sweep of run size, pages, direction, executor and quota against cudaMemcpyAsync.
5. What a decode-like kernel loses while pages are copied beside it.

FOLDER/gpu.json has all figures, FOLDER/gpu.png the sweep. The exit code is 0 if every step passed;
figures have no targets, they are for whoever reads them. --if-present: 0 where there is no GPU.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import NamedTuple

from benchmarks.gpu_decode import DecodeMachine, measure_loss
from benchmarks.gpu_machine import GpuMachine
from benchmarks.gpu_nccl import nccl
from benchmarks.gpu_sweep import Case, as_rows, plot, regret, sweep
from hicache_ext import _C

CONFORMANCE = "tests/test_copy_conformance.py"
# What has kernels, and runs them on a GPU.
SANITIZED = "(test_sets or test_odd) and (sm_reg or sm_bulk or staged) and not emulated"
RUN_SIZES = [256 << i for i in range(14)]  # 256 B to 2 MiB
PAGE_COUNTS = [1, 16, 256, 4096]
ARENA_BYTES = 512 << 20
DECODE_RUN_BYTES, DECODE_PAGES = 16 << 10, 256  # a page of 64 tokens of a 70B model with TP 8


class Step(NamedTuple):
    """One thing that has to work, and the line that tells of it."""

    passed: bool
    said: str


def toolkit() -> Path:
    """Where compute-sanitizer and the shared CUDA runtime may be."""
    return Path(os.environ.get("CUDA_HOME", "/usr/local/cuda"))


def num_gpus() -> int:
    """CUDA devices, asked of the driver itself: torch may be a build without CUDA."""
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return 0
    count = ctypes.c_int(0)
    if driver.cuInit(0) != 0 or driver.cuDeviceGetCount(ctypes.byref(count)) != 0:
        return 0
    return count.value


def why_not() -> str:
    """Why a machine with a GPU cannot run this, or nothing."""
    if not _C.with_cuda:
        return "this build of hicache_ext has no CUDA part: nvcc 12.8 or later builds it"
    import torch

    if not torch.cuda.is_available():
        return f"torch {torch.__version__} does not reach the GPU"
    return ""


def run_tests(command: Sequence[str | Path]) -> Step:
    """A step that passes if every test that was chosen passes, and there is one; none may skip."""
    print(" ".join(map(str, command)), flush=True)
    # The tests talk to the CUDA runtime of the toolkit, the module to the one inside of it.
    libraries = [str(toolkit() / "lib64"), os.environ.get("LD_LIBRARY_PATH", "")]
    env = os.environ | {"LD_LIBRARY_PATH": os.pathsep.join(libraries)}
    output = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    done = subprocess.run(command, env=env, **output)
    print(done.stdout, flush=True)
    said = [line for line in done.stdout.splitlines() if re.search(r"\d+ \w+ in [\d.]+ ?s", line)]
    all_passed = said and re.match(r"\d+ passed(, \d+ deselected)? in", said[-1].strip("= "))
    return Step(done.returncode == 0 and bool(all_passed), said[-1] if said else "no tests ran")


def conformance(executor: str) -> Step:
    """The suite on one executor of the GPU."""
    return run_tests([sys.executable, "-m", "pytest", "-q", "-rs", CONFORMANCE, "-k", executor])


def sanitize(tool: str) -> Step:
    """A part of the suite under compute-sanitizer, which makes kernels slow."""
    places = os.pathsep.join([os.environ.get("PATH", ""), str(toolkit() / "bin")])
    found = shutil.which("compute-sanitizer", path=places)
    if found is None:
        return Step(False, f"no compute-sanitizer on the PATH or in {toolkit()}/bin")
    command = [found, "--tool", tool, "--error-exitcode", "9", "--target-processes", "all"]
    return run_tests([*command, sys.executable, "-m", "pytest", "-q", CONFORMANCE, "-k", SANITIZED])


def measure(machine: DecodeMachine, out: Path, quick: bool) -> dict[str, object]:
    """The figures of a machine; the sweep also as a picture."""
    sizes = RUN_SIZES[::4] if quick else RUN_SIZES
    counts = PAGE_COUNTS[:2] if quick else PAGE_COUNTS
    num_rounds = 3 if quick else 5
    results = sweep(machine, sizes, counts, num_rounds)
    losses = []
    num_pages = min(DECODE_PAGES, machine.arena_bytes // (DECODE_RUN_BYTES * 16))
    for direction in machine.directions:
        case = Case(direction, DECODE_RUN_BYTES, num_pages)
        losses += [
            measure_loss(machine, case, contender, num_rounds)
            for contender in machine.contenders(direction)
        ]
    plot(results, f"copies of pages, {machine.facts()['gpu'] or 'host only'}", out / "gpu.png")
    return {
        "auto_regret": regret(results),
        "sweep": as_rows(results),
        "decode": [asdict(loss) | {"share": loss.share} for loss in losses],
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--if-present", action="store_true", help="no GPU is no failure")
    parser.add_argument("--quick", action="store_true", help="fewer sizes, for a first look")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"))
    args = parser.parse_args()
    if num_gpus() == 0:
        print("make gpu: no CUDA device on this machine; nothing was run")
        return 0 if args.if_present else 1
    if reason := why_not():
        print(f"make gpu: {reason}")
        return 1
    args.out.mkdir(parents=True, exist_ok=True)
    report = run_all(args.out, args.quick, lambda: GpuMachine(ARENA_BYTES))
    (args.out / "gpu.json").write_text(json.dumps(report, indent=1) + "\n")
    return 0 if report["passed"] else 1


def run_all(out: Path, quick: bool, make_machine: Callable[[], GpuMachine]) -> dict[str, object]:
    """All steps; one that fails does not stop the others."""
    machine = make_machine()
    executors = dict.fromkeys(
        name for direction in machine.directions for name, _ in machine.contenders(direction)
    )
    steps = {f"conformance of {name}": conformance(name) for name in executors}
    steps |= {tool: sanitize(tool) for tool in ("memcheck", "racecheck")}
    steps |= {f"NCCL, {size} ranks": Step(*nccl(size)) for size in sorted({1, num_gpus() or 1})}
    figures = measure(machine, out, quick)
    for name, step in steps.items():
        print(f"{name}: {'passed' if step.passed else 'FAILED'}: {step.said}")
    return {
        "passed": all(step.passed for step in steps.values()),
        "machine": machine.facts(),
        "steps": {name: step._asdict() for name, step in steps.items()},
        **figures,
    }


if __name__ == "__main__":
    sys.exit(main())
