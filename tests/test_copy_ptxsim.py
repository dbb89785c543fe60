"""The nvcc-built kernels give the CPU reference's bytes, run by the PTX simulator."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import ptxsim
import pytest
from build_tools import ROOT, read_sources, run

SOURCES = (
    *(path for path in read_sources("cpu", "cuda") if re.match("csrc/cuda/", path)),
    "csrc/host/pinning.cpp",
    "csrc/cpu/planner.cpp",
    "csrc/cpu/copy_pass.cpp",
    "csrc/cpu/copy_check.cpp",
    "csrc/cpu/copy.cpp",
    "csrc/cpu/wide_copy.cpp",
    "csrc/cpu/isa.cpp",
    "csrc/cpu/thread_pool.cpp",
)


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_executors_equal_the_reference(seed: int) -> None:
    """All pairs of layouts and tables with each executor; both id widths, ids on host and device,
    holes, odd addresses, windows, ids out of range."""
    environment = ptxsim.environment()
    program = ptxsim.build_program("test_copy", SOURCES)
    environment["FAKECUDA_SEED"] = str(seed)
    done = subprocess.run([program, str(seed)], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, f"seed {seed}:\n{done.stdout}{done.stderr}"
    assert f"seed {seed}, 108 cases, 0 failed" in done.stdout


@pytest.mark.long
@pytest.mark.timeout(1200)  # a whole build
def test_executors_from_python(tmp_path: Path) -> None:
    """Cases of the conformance suite on foreign GPU arrays, by a build with cudart shared."""
    environment = ptxsim.environment()
    build = {"HICACHE_CUDA": "1", "HICACHE_CUDART": "shared", "HICACHE_CUDA_ARCHS": "90"}
    run(sys.executable, "setup.py", "-q", "build_ext", "--build-lib", tmp_path, env=build)
    (module,) = tmp_path.glob("hicache_ext/_C*.so")
    paths = os.pathsep.join([str(ROOT / "python"), str(ROOT / "tests")])
    for seed in ("1", "2", "3"):
        simulated = {**environment, "FAKECUDA_SEED": seed, "PYTHONPATH": paths}
        out = run(sys.executable, "tests/stream_worker.py", module, seed, env=simulated)
        assert f"seed {seed} equal" in out
