"""The copy benchmark on sizes that take a moment: it cannot rot, and it copies for real."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from build_tools import run


def test_bench_copy_runs(tmp_path: Path) -> None:
    out = run(sys.executable, "-m", "benchmarks.bench_copy", "--quick", "--out", tmp_path)
    assert "met 2 of 2 targets" in out
    rows = json.loads((tmp_path / "copy.json").read_text())["rows"]
    assert [row["target"] is not None for row in rows] == [True, True, False, False, False]
    assert all(row["figure"] > 0 for row in rows)
    assert (tmp_path / "copy.png").stat().st_size > 0
