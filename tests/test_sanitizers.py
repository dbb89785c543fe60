"""The C++ tests under the sanitizers. Each tests/cpp/test_*.cpp is a program that exits 0."""

from __future__ import annotations

import subprocess
import sys

import pytest
from build_tools import ROOT, configure_cmake, run

PROGRAMS = sorted(path.stem for path in (ROOT / "tests/cpp").glob("test_*.cpp"))
REPORTS = {
    "address": "heap-buffer-overflow",
    "undefined": "signed integer overflow",
    "thread": "data race",
}


@pytest.mark.parametrize(
    "sanitizers", ["address,undefined", pytest.param("thread", marks=pytest.mark.long)]
)
def test_cpp_tests_pass_under(sanitizers: str) -> None:
    """Built in a kept folder, so that only what changed is compiled again."""
    folder = ROOT / "build" / f"sanitize-{sanitizers.replace(',', '-')}"
    configure_cmake(folder, sys.executable, HICACHE_SANITIZE=sanitizers)
    run("cmake", "--build", folder, "--target", *PROGRAMS, "sanitizer_canary")
    for bug in sanitizers.split(","):
        canary = [folder / "sanitizer_canary", bug]
        done = subprocess.run(canary, capture_output=True, text=True)
        assert done.returncode != 0 and REPORTS[bug] in done.stderr, f"{bug}: {done.stderr}"
    told = run("ctest", "--test-dir", folder, "--output-on-failure")
    assert f"100% tests passed, 0 tests failed out of {len(PROGRAMS)}" in told
