"""The tree's fuzz finds bugs of the native core as well, each compiled into a module of its own.
See seeded_bugs.py.
"""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from build_tools import ROOT, need
from native_objects import compile_unit, link, module_name, objects
from seeded_bugs import NATIVE_BUGS, check_found

QUICK = "native-flag_kept"


def rebuild_tree(folder: Path) -> None:
    """The sources in csrc/tree, linked with the objects of the build that is in use."""
    sources = sorted((folder / "csrc/tree").glob("*.cpp"))
    unit = folder / "tree.cpp"
    unit.write_text("".join(f'#include "{path}"\n' for path in sources))
    compile_unit(unit, folder / "tree.o")
    others = [path for source, path in objects().items() if "/tree_" not in source]
    module = folder / "python/hicache_ext" / module_name()
    module.unlink()  # the link to that of the build
    link([folder / "tree.o", *others], module)


def test_there_are_ten_at_least() -> None:
    assert len(NATIVE_BUGS) >= 10


def test_all_apply() -> None:
    for bug in NATIVE_BUGS:
        subprocess.run([need("git"), "apply", "--check", bug], cwd=ROOT, check=True)


@pytest.mark.parametrize(
    "bug",
    [
        pytest.param(path, id=path.stem, marks=() if path.stem == QUICK else pytest.mark.long)
        for path in NATIVE_BUGS
    ],
)
def test_it_is_found(bug: Path, tmp_path: Path) -> None:
    find = "tree_seeds.first_native_failure"
    check_found(bug, tmp_path, find, num=100, preload="numpy", rebuild=rebuild_tree)
