"""The nvcc-built register kernel gives the CPU reference's bytes, run by the PTX simulator."""

from __future__ import annotations

import subprocess

import ptxsim
import pytest

SOURCES = (
    "csrc/cuda/copy.cu",
    "csrc/cuda/copy_ticket.cpp",
    "csrc/cpu/planner.cpp",
    "csrc/cpu/copy.cpp",
    "csrc/cpu/wide_copy.cpp",
    "csrc/cpu/thread_pool.cpp",
)


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_kernel_equals_the_reference(seed: int) -> None:
    """Both id widths, ids on host and device, holes, odd addresses, windows, ids out of range."""
    environment = ptxsim.environment()
    program = ptxsim.build_program("test_copy", SOURCES)
    environment["FAKECUDA_SEED"] = str(seed)
    done = subprocess.run([program, str(seed)], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, f"seed {seed}:\n{done.stdout}{done.stderr}"
    assert f"seed {seed}, 24 cases, 0 failed" in done.stdout
