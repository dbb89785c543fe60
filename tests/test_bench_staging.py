"""The staging benchmark on sizes that take a moment: it cannot rot, and its yardstick is fair."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
from build_tools import run

from benchmarks.bench_staging import PAIRS, Staging
from benchmarks.copy_cases import make_cases


def test_bench_staging_runs(tmp_path: Path) -> None:
    out = run(sys.executable, "-m", "benchmarks.bench_staging", "--quick", "--out", tmp_path)
    rows = json.loads((tmp_path / "staging.json").read_text())["rows"]
    num_targets = len(PAIRS) * 2 * 2  # page sizes, threads
    assert f"met {num_targets} of {num_targets} targets" in out
    assert len(rows) == 5 * num_targets and all(row["figure"] > 0 for row in rows)


def test_numpy_and_xxhash_do_the_same_work() -> None:
    for case in make_cases(5, 4, 3, PAIRS):
        staging = Staging(case)
        expected = case.dst.array.copy()
        case.dst.array[:] = 0
        assert staging.numpy_and_xxhash() == staging.checksums
        assert np.array_equal(case.dst.array, expected)
        pool = case.src.array.copy()
        case.src.array[:] = 0
        staging.scatter(staging.keys)
        assert np.array_equal(case.src.array, pool)
