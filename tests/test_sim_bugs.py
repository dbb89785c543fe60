"""The simulation can fail: eight bugs that such caches have had are found, see seeded_bugs.py."""

from __future__ import annotations

from pathlib import Path

import pytest
from seeded_bugs import FLOW_BUGS, check_found


def test_there_are_eight() -> None:
    assert len(FLOW_BUGS) == 8


@pytest.mark.parametrize("bug", FLOW_BUGS, ids=[path.stem for path in FLOW_BUGS])
def test_it_is_found(bug: Path, tmp_path: Path) -> None:
    check_found(bug, tmp_path, "sim.runs.first_failure", num=500, preload="torch")
