"""The short form of the agreement benchmark: it runs, and shared memory beats gloo."""

import json
import os
import subprocess
import sys

from build_tools import ROOT


def test_short_form(tmp_path):
    """Its exit code tells whether targets are met, which few ticks on a busy machine cannot say."""
    command = [sys.executable, "-m", "benchmarks.bench_agreement", "--quick", "--out", tmp_path]
    env = os.environ | {"PYTHONPATH": str(ROOT / "python"), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=120)
    assert "targets" in done.stdout, done.stdout + done.stderr
    table = json.loads((tmp_path / "bench_agreement.json").read_text())
    ratios = {row["name"]: row["ratio"] for row in table["rows"]}
    for size in (2, 4):
        assert ratios[f"{size} ranks: tick vs packed gloo, p99"] > 0
        assert ratios[f"{size} ranks: tick vs packed gloo, median"] < 0.5
