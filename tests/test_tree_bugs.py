"""The tree's fuzz can fail: bugs that such trees have had are found, see seeded_bugs.py."""

from __future__ import annotations

from pathlib import Path

import pytest
from seeded_bugs import TREE_BUGS, check_found


def test_there_are_ten_at_least() -> None:
    assert len(TREE_BUGS) >= 10


@pytest.mark.parametrize("bug", TREE_BUGS, ids=[path.stem for path in TREE_BUGS])
def test_it_is_found(bug: Path, tmp_path: Path) -> None:
    check_found(bug, tmp_path, "tree_seeds.first_failure", num=100, preload="numpy")
