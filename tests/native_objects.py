"""The objects of the build that is in use, to link something else with them: what setup.py has
compiled, by its own list and with its own flags.
"""

from __future__ import annotations

import sysconfig
from pathlib import Path

import pytest
from build_tools import ROOT, load_setup, need, run
from setuptools import Extension

from hicache_ext import _C

KIND = "cuda" if _C.with_cuda else "cpu"
BUILD = ROOT / "build" / KIND


def extension() -> Extension:
    setup = load_setup()
    cuda_home = setup.find_cuda_home() if _C.with_cuda else None
    with_uring = (BUILD / "csrc/storage/io_uring.o").exists()
    made: Extension = setup.make_extension(cuda_home, with_uring=with_uring)
    return made


def objects(of: str = "") -> dict[str, Path]:
    """By source, of those with `of` in their name. Skips where the module was built elsewhere."""
    sources = load_setup().unite_sources(extension().sources, BUILD)
    found = {source: BUILD / Path(source).with_suffix(".o") for source in sources if of in source}
    if missing := [str(path) for path in found.values() if not path.exists()]:
        pytest.skip(f"the module in use was built elsewhere: no {missing[0]}")
    return found


def compile_unit(source: Path, target: Path, include: Path = ROOT / "csrc/include") -> None:
    """Without optimisation: it is compiled to be run once."""
    flags = ["-std=c++20", "-O0", "-fPIC", "-fvisibility=hidden", "-Wall", "-Wextra", "-Werror"]
    run(need("c++"), *flags, f"-I{include}", "-c", source, "-o", target)


def link(objects: list[Path], target: Path) -> None:
    ext = extension()
    folders = [f"-L{folder}" for folder in ext.library_dirs]
    libraries = [*(f"-l{name}" for name in ext.libraries), *ext.extra_link_args]
    run(need("c++"), "-shared", *objects, *folders, *libraries, "-o", target)


def module_name() -> str:
    return f"_C{sysconfig.get_config_var('EXT_SUFFIX')}"
