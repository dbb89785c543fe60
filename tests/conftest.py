"""Every test of a module that drives caches through `ranks` runs at both depths of the tick."""

from __future__ import annotations

import os
import sys

import pytest


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    used = (getattr(value, "__module__", None) for value in vars(metafunc.module).values())
    if {"ranks", "traffic"} & set(used):
        metafunc.parametrize("tick_depth", [0, 1], indirect=True, ids=["depth0", "depth1"])


@pytest.fixture(autouse=True)
def tick_depth(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int | None:
    """The depth of caches that do not ask for another, those in child processes included."""
    depth: int | None = getattr(request, "param", None)
    if depth is not None:
        monkeypatch.setenv(sys.modules["ranks"].DEPTH_VARIABLE, str(depth))
    return depth


@pytest.fixture(autouse=True, scope="session")
def dump_folder(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Where ranks that differ leave their logs, those in child processes included."""
    os.environ["HICACHE_DUMP_DIR"] = str(tmp_path_factory.mktemp("dumps"))
