"""Every test of a module that drives caches through `ranks` runs at both depths of the tick, and
those of the tree on both of its cores.
"""

from __future__ import annotations

import os
import sys

import pytest

from hicache_ext.tree import RadixTree

# What these look at has both cores; those that break a tree from inside are not among them.
ON_BOTH_CORES = {
    *("bad_input", "basic", "copy", "events", "evict", "gaps", "key"),
    *("locks", "mamba", "native", "strategy", "window"),
}
FROM_INSIDE = {"test_a_missing_host_parent_is_no_violation_here_and_one_elsewhere"}


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    used = (getattr(value, "__module__", None) for value in vars(metafunc.module).values())
    if {"ranks", "traffic"} & set(used):
        metafunc.parametrize("tick_depth", [0, 1], indirect=True, ids=["depth0", "depth1"])
    is_for_both = metafunc.module.__name__.removeprefix("test_tree_") in ON_BOTH_CORES
    if is_for_both and metafunc.function.__name__ not in FROM_INSIDE:
        metafunc.parametrize("tree_core", ["python", "native"], indirect=True)


@pytest.fixture(autouse=True)
def tick_depth(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int | None:
    """The depth of caches that do not ask for another, those in child processes included."""
    depth: int | None = getattr(request, "param", None)
    if depth is not None:
        monkeypatch.setenv(sys.modules["ranks"].DEPTH_VARIABLE, str(depth))
    return depth


@pytest.fixture(autouse=True)
def tree_core(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str | None:
    """The core of trees that do not ask for one."""
    core: str | None = getattr(request, "param", None)
    if core is not None:
        monkeypatch.setitem(RadixTree.__new__.__kwdefaults__, "core", core)
    return core


@pytest.fixture(autouse=True, scope="session")
def dump_folder(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Where ranks that differ leave their logs, those in child processes included."""
    os.environ["HICACHE_DUMP_DIR"] = str(tmp_path_factory.mktemp("dumps"))
