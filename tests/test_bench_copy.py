"""The copy benchmark on sizes that take a moment: it cannot rot, and it copies for real."""

from __future__ import annotations

import json
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from build_tools import run

from benchmarks.copy_cases import PAIRS, make_cases
from benchmarks.copy_yardsticks import yardsticks


def test_bench_copy_runs(tmp_path: Path) -> None:
    out = run(sys.executable, "-m", "benchmarks.bench_copy", "--quick", "--out", tmp_path)
    rows = json.loads((tmp_path / "copy.json").read_text())["rows"]
    with_target = [row["name"] for row in rows if row["target"] is not None]
    assert f"met {len(with_target)} of {len(with_target)} targets" in out
    limits = [name for name in with_target if name.endswith(": memcpy")]
    assert len(limits) == len(PAIRS) * 2 * 2  # page sizes, threads
    assert all(row["figure"] > 0 for row in rows)
    assert (tmp_path / "copy.png").stat().st_size > 0


@pytest.mark.parametrize("num_threads", [1, 2])
def test_memcpy_moves_every_byte(num_threads: int) -> None:
    case = next(iter(make_cases(num_pages=3, page_size=2, num_layers=1)))
    with ThreadPoolExecutor(2) as threads:
        case.memcpy(num_threads, threads)
    assert np.array_equal(case.dst.array, case.src.array)


def test_yardsticks_that_change_the_layout_do_the_same_work() -> None:
    """The copy and each of them leave the same bytes: what is compared is comparable."""
    for case in make_cases(num_pages=5, page_size=4, num_layers=3):
        case.dst.array[:] = 0
        case.copy(2)
        expected = case.dst.array.copy()
        for way in yardsticks(case):
            if way.name.startswith("a copy_ per page") or way.name == "advanced indexing":
                case.dst.array[:] = 0
                way.call()
                assert np.array_equal(case.dst.array, expected), (case.name, way.name)
