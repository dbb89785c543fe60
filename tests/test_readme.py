"""The README is true: its loop is the one that runs, its commands exist, its files are there."""

from __future__ import annotations

import importlib.util
import re
import subprocess

from build_tools import ROOT

import hicache_ext

README = (ROOT / "README.md").read_text()
LOOP = ROOT / "examples/serving_loop.py"


def test_the_loop_is_the_one_that_runs() -> None:
    source = LOOP.read_text().split("# README: begin\n")[1].split("# README: end")[0].strip()
    assert f"```python\n{source}\n```" in README
    assert len(source.splitlines()) <= 26


def test_the_loop_runs() -> None:
    spec = importlib.util.spec_from_file_location("serving_loop", LOOP)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert module.main() == [0, 496, 496]


def test_its_make_targets_exist() -> None:
    targets = set(re.findall(r"^make ([a-z-]+)", README, re.MULTILINE))
    assert {"demo", "test", "test-long", "bench-copy", "lint"} <= targets
    for target in targets:
        done = subprocess.run(["make", "-n", target], cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
    for name in re.findall(r"bench-([a-z]+)", README):
        assert (ROOT / f"benchmarks/bench_{name}.py").exists(), name


def test_its_files_exist() -> None:
    for path in re.findall(r"`((?:python|csrc|examples|integrations|docs)/[\w./]*)`", README):
        assert (ROOT / path).exists() or (ROOT / "python/hicache_ext" / path).exists(), path


def test_public_names_are_there() -> None:
    assert hicache_ext.__all__ == sorted(hicache_ext.__all__)
    for name in hicache_ext.__all__:
        assert getattr(hicache_ext, name) is not None, name
    assert set(hicache_ext.__all__) <= set(dir(hicache_ext))
