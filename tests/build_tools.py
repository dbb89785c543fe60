"""What the build, package and tidy tests share: the checkout, setup.py, subprocesses."""

import importlib.util
import os
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path
from types import ModuleType

import pybind11
import pytest

ROOT = Path(__file__).resolve().parent.parent
PYTHONS = ("3.10", "3.11", "3.12", "3.13")


@cache
def load_setup() -> ModuleType:
    """setup.py without running it: it guards its main()."""
    spec = importlib.util.spec_from_file_location("hicache_setup", ROOT / "setup.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def read_sources(*kinds: str) -> list[str]:
    """The paths of csrc/sources.txt of these kinds ("cpu", "cuda", "uring")."""
    rows = [row.split() for row in (ROOT / "csrc/sources.txt").read_text().splitlines()]
    return [row[1] for row in rows if row and row[0] in kinds]


def run(*command: object, env: dict[str, str] | None = None) -> str:
    """Run in the checkout with the test's Python first on the PATH; the output, or a failure."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        [str(part) for part in command],
        cwd=ROOT,
        env=os.environ | {"PATH": path, "PYTHONPATH": str(ROOT / "python")} | (env or {}),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert done.returncode == 0, f"{command} exited {done.returncode}:\n{done.stdout[-4000:]}"
    return done.stdout


def need(tool: str) -> str:
    """The path of a tool; the test skips, and says why, where it is missing."""
    found = shutil.which(tool)
    if found is None:
        pytest.skip(f"{tool} is not installed")
    return found


def configure_cmake(folder: Path, python: str, **options: str) -> None:
    """The CPU part for this interpreter, compiled quickly (no optimisation) unless told so."""
    options = {
        "HICACHE_CUDA": "OFF",
        "CMAKE_BUILD_TYPE": "None",
        "Python_EXECUTABLE": python,
        "pybind11_DIR": pybind11.get_cmake_dir(),
        **options,
    }
    values = [f"-D{name}={value}" for name, value in options.items()]
    run(need("cmake"), "-S", ROOT, "-B", folder, "-G", "Ninja", *values)


def find_python(version: str) -> str | None:
    """An interpreter of this version that runs, of the PATH or of pyenv; None if there is none."""
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"))
    candidates = [f"python{version}", *sorted(pyenv.glob(f"versions/{version}.*/bin/python"))]
    for candidate in candidates:
        check = "import sys; print('{}.{}'.format(*sys.version_info))"
        try:
            done = subprocess.run([candidate, "-c", check], capture_output=True, text=True)
        except OSError:
            continue
        if done.returncode == 0 and done.stdout.strip() == version:
            return str(candidate)
    return None
