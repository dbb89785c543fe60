"""Runs nvcc-built programs without a GPU, through the PTX simulator where it is present.

It lies at ../shared/tools/ptxsim beside the checkout; HICACHE_PTXSIM names another folder. A test
that cannot have it, or has no nvcc, is skipped with the reason.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest
from build_tools import ROOT, load_setup

BUILD = ROOT / "build" / "ptxsim"
EXTRAS = ROOT / "tests" / "cuda" / "ptxsim_extras.cpp"


def find_simulator() -> Path:
    folder = Path(os.environ.get("HICACHE_PTXSIM") or ROOT.parent / "shared" / "tools" / "ptxsim")
    if not (folder / "Makefile").exists():
        pytest.skip("no PTX simulator (../shared/tools/ptxsim or HICACHE_PTXSIM)")
    return folder


def find_cuda_home() -> Path:
    build_script = load_setup()  # the one place that knows where nvcc hides
    home = build_script.find_cuda_home()
    if build_script.nvcc_version(home) < build_script.MIN_NVCC:
        pytest.skip("no nvcc, or one that is too old")
    return home


def is_stale(target: Path, sources: Sequence[Path]) -> bool:
    newest = max(source.stat().st_mtime for source in sources)
    return not target.exists() or target.stat().st_mtime < newest


def run(command: Sequence[str | Path], **options: object) -> None:
    done = subprocess.run(command, capture_output=True, text=True, **options)
    assert done.returncode == 0, f"{command}\n{done.stdout[-4000:]}\n{done.stderr[-4000:]}"


def environment() -> dict[str, str]:
    """Builds the simulator if need be; the environment in which programs use it."""
    simulator, cuda_home = find_simulator(), find_cuda_home()
    library, extras = BUILD / "libcudart.so.13", BUILD / "libextras.so"
    if is_stale(library, [simulator / "fakecudart.cpp", simulator / "ptxsim.hpp"]):
        run(["make", "-s", "-C", simulator, f"OUT={BUILD}", f"CUDA_HOME={cuda_home}"])
    if is_stale(extras, [EXTRAS]):
        compiler = shutil.which("c++") or "g++"
        flags = ["-O1", "-fPIC", "-shared", f"-I{cuda_home}/include"]
        run([compiler, *flags, "-o", extras, EXTRAS])
    return {**os.environ, "LD_LIBRARY_PATH": str(BUILD), "LD_PRELOAD": str(extras)}


def build_program(name: str, sources: Sequence[str]) -> Path:
    """tests/cuda/<name>.cu with `sources` of the checkout, for one architecture, cudart shared."""
    cuda_home, program = find_cuda_home(), BUILD / name
    paths = [ROOT / "tests" / "cuda" / f"{name}.cu", *(ROOT / source for source in sources)]
    headers = [*ROOT.glob("csrc/**/*.h"), *ROOT.glob("csrc/**/*.cu*"), *ROOT.glob("tests/**/*.h")]
    if is_stale(program, [*paths, *headers]):
        BUILD.mkdir(parents=True, exist_ok=True)
        flags = ["-std=c++20", "-O1", "-arch=sm_90", "-cudart", "shared", "-Xcompiler=-pthread"]
        flags += [
            "-Werror=all-warnings",
            "-DHICACHE_WITH_CUDA",
            "-Xcompiler=-Wall,-Wextra,-Werror",
            f"-I{ROOT}/csrc/include",
        ]
        run([cuda_home / "bin" / "nvcc", *flags, "-o", program, *paths])
    return program
