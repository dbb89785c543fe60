"""Two ranks of SGLang in two processes, each with its own shard and windows of its own."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import sglang_standins
from build_tools import ROOT

if why := sglang_standins.why_missing():
    pytest.skip(why, allow_module_level=True)


@pytest.mark.long
@pytest.mark.parametrize("v1", [0, 1])
def test_ranks_agree_on_an_endpoint_that_both_can_restore(tmp_path: Path, v1: int) -> None:
    """Rank 0 has windows at 3, 6 and 10, rank 1 at 3, 6 and 9: each has a longer one alone."""
    ends = (["3", "6", "10"], ["3", "6", "9"])
    files = [tmp_path / f"rank{rank}.json" for rank in range(2)]
    ranks = [
        subprocess.Popen(
            [
                *(sys.executable, ROOT / "tests/sglang_worker.py", str(rank), tmp_path / "store"),
                *(tmp_path / "rendezvous", files[rank], str(v1), *ends[rank]),
            ],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(2)
    ]
    for rank in ranks:
        output, _ = rank.communicate(timeout=200)
        assert rank.returncode == 0, output
    told = [json.loads(file.read_text()) for file in files]
    assert [rank["here"] for rank in told] == [[3, 6, 10], [3, 6, 9]]
    for rank in told:
        assert (rank["agreed"], rank["arrived"], rank["window"], rank["wrong"]) == (6, 6, 2, [])
