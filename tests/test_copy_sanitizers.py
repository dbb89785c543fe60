"""The native CPU part of copies under AddressSanitizer, UBSan and ThreadSanitizer."""

from __future__ import annotations

from pathlib import Path

import pytest
from build_tools import need, run

SOURCES = (
    "tests/cpp/test_copy.cpp",
    "csrc/cpu/planner.cpp",
    "csrc/cpu/copy_pass.cpp",
    "csrc/cpu/copy_check.cpp",
    "csrc/cpu/copy.cpp",
    "csrc/cpu/copy_emulator.cpp",
    "csrc/cpu/wide_copy.cpp",
    "csrc/cpu/thread_pool.cpp",
)


@pytest.mark.long
@pytest.mark.parametrize("sanitizer", ["address,undefined", "thread"])
def test_copies_under(sanitizer: str, tmp_path: Path) -> None:
    program = tmp_path / "test_copy"
    flags = ["-std=c++20", "-O1", "-g", "-pthread", "-Wall", "-Wextra", "-Werror", "-Icsrc/include"]
    flags += [f"-fsanitize={sanitizer}", "-fno-sanitize-recover=all"]
    run(need("c++"), *flags, "-o", program, *SOURCES)
    assert "test_copy: 0 failed" in run(program)
