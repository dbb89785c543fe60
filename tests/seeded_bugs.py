"""Bugs as patches, each put into a copy of the package or of the native tree's sources: what is
there to find them must do so.

A patch in bugs/ begins with what it does, where it comes from and how it is found. If one no longer
applies, the code around it has changed: put the same bug into the new code.
"""

from __future__ import annotations

import importlib
import multiprocessing
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

from build_tools import ROOT, need

BUGS = sorted((ROOT / "tests/bugs").glob("*.patch"))
TREE_BUGS = [path for path in BUGS if path.name.startswith("tree-")]
NATIVE_BUGS = [path for path in BUGS if path.name.startswith("native-")]
FLOW_BUGS = [path for path in BUGS if path not in (*TREE_BUGS, *NATIVE_BUGS)]


def package_with(bug: Path, folder: Path) -> Path:
    """A copy of the package with the bug in it, or of the tree's sources in csrc/tree beside the
    package; the folder to import it from.
    """
    skip = shutil.ignore_patterns("__pycache__", "*.so")
    shutil.copytree(ROOT / "python/hicache_ext", folder / "python/hicache_ext", ignore=skip)
    shutil.copytree(ROOT / "csrc/tree", folder / "csrc/tree")
    for module in (ROOT / "python/hicache_ext").glob("*.so"):
        os.symlink(module, folder / "python/hicache_ext" / module.name)
    done = subprocess.run([need("git"), "apply", bug], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, f"{bug.name} does not apply:\n{done.stderr}"
    return folder / "python"


def first_failure(package: Path, finder: str, num: int) -> tuple[int, str] | None:
    """In a process of its own, which has not imported the package yet."""
    sys.path.insert(0, str(package))
    module, function = finder.rsplit(".", 1)
    found: tuple[int, str] | None = getattr(importlib.import_module(module), function)(num)
    assert Path(sys.modules["hicache_ext"].__file__ or "").is_relative_to(package)
    return found


def check_found(
    bug: Path,
    folder: Path,
    finder: str,
    num: int,
    preload: str,
    rebuild: Callable[[Path], None] = lambda folder: None,
) -> None:
    """`finder` is "module.function", and function(num) gives the first of `num` seeds that fails;
    `preload` what takes long to import, once for all bugs; `rebuild` makes the package in `folder`
    from the sources there.
    """
    package = package_with(bug, folder)
    rebuild(folder)
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([preload])
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        found = pool.submit(first_failure, package, finder, num).result()
    assert found is not None, f"{bug.name}: not found by {num} seeds"
    seed, wrong = found
    print(f"{bug.stem}: seed {seed}: {wrong}")
    (how,) = re.findall("^Found as: (.*)$", bug.read_text(), re.MULTILINE)
    assert re.search(how, wrong), f"{bug.name}: seed {seed} fails in another way: {wrong}"
