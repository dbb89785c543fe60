"""setup.py, CMake and cpp_extension.load: what each finds, refuses and builds."""

import math
import os
import re
import stat
import sys
import textwrap
from pathlib import Path

import pytest
from build_tools import (
    PYTHONS,
    ROOT,
    configure_cmake,
    find_python,
    load_setup,
    need,
    read_sources,
    run,
)

from hicache_ext import _C

VARIABLES = ("CUDA_HOME", "CUDA_PATH", "HICACHE_CUDA", "HICACHE_CUDA_ARCHS", "HICACHE_CUDART")


@pytest.fixture(autouse=True)
def bare_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)


def script(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{textwrap.dedent(text)}")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


def fake_toolkit(folder: Path, release: str) -> Path:
    """A toolkit whose nvcc only answers --version and --dryrun, as the real one does."""
    nvcc = folder / "bin/nvcc"
    script(
        nvcc,
        f"""\
        case "$1" in
          --version) echo "Cuda compilation tools, release {release}, V{release}.88" ;;
          --dryrun) echo '#$ _HERE_={nvcc.parent}' >&2 ;;
        esac
        """,
    )
    return folder


def wrap(toolkit: Path, folder: Path) -> Path:
    """A folder with an nvcc that is a script and calls the toolkit's."""
    return script(folder / "nvcc", f'exec "{toolkit}/bin/nvcc" "$@"\n').parent


def test_finds_the_toolkit_behind_a_wrapper(tmp_path: Path, monkeypatch) -> None:
    toolkit = fake_toolkit(tmp_path / "opt/cuda", "13.0")
    monkeypatch.setenv("PATH", str(wrap(toolkit, tmp_path / "bin")))
    assert load_setup().find_cuda_home() == toolkit
    assert load_setup().select_cuda() == toolkit


def test_cuda_home_wins_over_the_path(tmp_path: Path, monkeypatch) -> None:
    one, other = (fake_toolkit(tmp_path / name, "13.0") for name in ("one", "other"))
    monkeypatch.setenv("PATH", str(one / "bin"))
    monkeypatch.setenv("CUDA_HOME", str(other))
    assert load_setup().select_cuda() == other


@pytest.mark.parametrize(
    ("release", "accepted"), [("11.8", False), ("12.7", False), ("12.8", True), ("13.0", True)]
)
def test_old_nvcc_is_refused(tmp_path: Path, monkeypatch, capsys, release, accepted) -> None:
    toolkit = fake_toolkit(tmp_path, release)
    monkeypatch.setenv("CUDA_HOME", str(toolkit))
    assert load_setup().select_cuda() == (toolkit if accepted else None)
    said = capsys.readouterr().out
    assert (f"nvcc {release}" in said and "12.8" in said) is not accepted
    monkeypatch.setenv("HICACHE_CUDA", "1")
    if not accepted:
        with pytest.raises(SystemExit, match=rf"HICACHE_CUDA=1.*nvcc {release}.*12\.8"):
            load_setup().select_cuda()


def test_no_nvcc(tmp_path: Path, monkeypatch, capsys) -> None:
    monkeypatch.setenv("CUDA_HOME", str(tmp_path / "nowhere"))
    assert load_setup().select_cuda() is None
    assert "no nvcc" in capsys.readouterr().out
    monkeypatch.setenv("HICACHE_CUDA", "1")
    with pytest.raises(SystemExit, match=r"no nvcc in .*nowhere"):
        load_setup().select_cuda()


def test_cuda_can_be_switched_off(tmp_path: Path, monkeypatch) -> None:
    toolkit = fake_toolkit(tmp_path, "13.0")
    monkeypatch.setenv("CUDA_HOME", str(toolkit))
    monkeypatch.setenv("HICACHE_CUDA", "0")
    assert load_setup().select_cuda() is None


def test_extension_of_the_cpu_part() -> None:
    ext = load_setup().make_extension(None)
    assert ext.sources == read_sources("cpu")
    assert ext.define_macros == []
    assert not any("cuda" in str(part) for part in ext.libraries + ext.include_dirs)


def test_extension_with_cuda(monkeypatch) -> None:
    ext = load_setup().make_extension(Path("/opt/cuda"))
    assert sorted(ext.sources) == sorted(read_sources("cpu", "cuda"))
    assert ext.libraries[0] == "cudart_static"
    assert ("HICACHE_WITH_CUDA", None) in ext.define_macros
    nvcc = " ".join(ext.extra_compile_args["nvcc"])
    for arch in (80, 90, 100, 120):
        assert f"code=sm_{arch}" in nvcc
    assert "code=compute_120" in nvcc
    assert "-Werror=all-warnings" in nvcc and "-Xcompiler=-Werror" in nvcc
    monkeypatch.setenv("HICACHE_CUDA_ARCHS", "90")
    monkeypatch.setenv("HICACHE_CUDART", "shared")
    ext = load_setup().make_extension(Path("/opt/cuda"))
    codes = [flag for flag in ext.extra_compile_args["nvcc"] if "gencode" in flag]
    assert [code.rpartition("=")[2] for code in codes] == ["sm_90", "compute_90"]
    assert ext.libraries[0] == "cudart"


def test_extension_with_io_uring() -> None:
    ext = load_setup().make_extension(None, with_uring=True)
    assert sorted(ext.sources) == sorted(read_sources("cpu", "uring"))
    assert ext.define_macros == [("HICACHE_WITH_URING", None)]
    assert ext.extra_link_args == ["-l:liburing.a"]  # static: the wheel needs no liburing


def test_io_uring_is_left_out_where_it_is_missing(monkeypatch, capsys) -> None:
    monkeypatch.setenv("CXX", "false")
    monkeypatch.delenv("HICACHE_URING", raising=False)
    assert not load_setup().select_uring()
    assert "without io_uring" in capsys.readouterr().out
    monkeypatch.setenv("HICACHE_URING", "1")
    with pytest.raises(SystemExit, match="liburing-dev"):
        load_setup().select_uring()
    monkeypatch.setenv("CXX", "true")
    assert load_setup().select_uring()
    monkeypatch.setenv("HICACHE_URING", "0")
    assert not load_setup().select_uring()


def test_small_sources_are_compiled_in_few_units(tmp_path: Path) -> None:
    """Each of them once, and a unit that has not changed keeps its time, by which ninja goes."""
    setup, listed = load_setup(), read_sources("cpu", "cuda")
    counts = {
        name: sum(path.startswith(f"csrc/{name}/") for path in listed)
        for name in setup.SOURCES_PER_UNIT
    }
    num_units = sum(math.ceil(counts[name] / most) for name, most in setup.SOURCES_PER_UNIT.items())
    built = setup.unite_sources(listed, tmp_path)
    units = [ROOT / path for path in built[:num_units]]
    included = [
        str((tmp_path / path).resolve().relative_to(ROOT))
        for unit in units
        for path in re.findall(r'#include "(.*)"', unit.read_text())
    ]
    assert len(included) == sum(counts.values()) > 30
    assert sorted([*included, *built[num_units:]]) == sorted(listed)
    os.utime(units[0], (1, 1))
    units[-1].write_text("stale")
    assert setup.unite_sources(listed, tmp_path) == built
    assert units[0].stat().st_mtime == 1 and "stale" not in units[-1].read_text()


LOAD = """
import sys, pybind11
from torch.utils.cpp_extension import load
root, build, sources = sys.argv[1], sys.argv[2], sys.argv[3:]
cuda = any(name.endswith(".cu") for name in sources)
define = ["-DHICACHE_WITH_CUDA"] if cuda else []
flags = ["-std=c++20", *define]
module = load("_C", sources, build_directory=build, with_cuda=cuda,
              extra_include_paths=[root + "/csrc/include", pybind11.get_include()],
              extra_cflags=["-O0", *flags], extra_cuda_cflags=flags)
print("loaded", *sorted(name for name in dir(module) if name[0] != "_"))
"""


# A CPU-only torch finds no toolkit, whatever the environment says, and has no CUDA part to link to.
FOR_CPU_TORCH = """
import torch.utils.cpp_extension as torch_build
if torch_build.torch.version.cuda is None:
    torch_build.CUDA_HOME, link_flags = home, torch_build._prepare_ldflags
    cudart = [f"-L{home}/lib64", "-lcudart_static", "-lrt", "-ldl", "-lpthread"]
    torch_build._prepare_ldflags = lambda flags, with_cuda, *rest: link_flags(
        [*flags, *cudart], False, *rest)
"""


def load_with_torch(folder: Path, *sources: str, prelude: str = "", **env: str) -> str:
    """Build in a kept folder, so that only the first run of a checkout compiles."""
    folder.mkdir(parents=True, exist_ok=True)
    return run(sys.executable, "-c", prelude + LOAD, ROOT, folder, *sources, env=env)


def test_cpp_extension_load_builds_the_same_sources() -> None:
    """The CPU part; it offers what the installed module offers, but for the CUDA part of that."""
    folder = ROOT / "build/load-cpu"
    sources = load_setup().unite_sources(read_sources("cpu"), folder)  # to be done sooner
    names = set(load_with_torch(folder, *sources).split("loaded ")[1].split())
    assert {"with_cuda", "make_plan", "page_keys"} <= names <= set(dir(_C))
    assert _C.with_cuda or names == {name for name in dir(_C) if name[0] != "_"}


@pytest.mark.long
@pytest.mark.timeout(1200)
def test_cpp_extension_load_with_cuda() -> None:
    """Every source by itself, as the list has them: each bindings file includes what it uses."""
    home = load_setup().select_cuda()
    if home is None:
        pytest.skip("no nvcc of 12.8 or later")
    prelude = f"home = {str(home)!r}\n{FOR_CPU_TORCH}"
    sources = read_sources("cpu", "cuda")
    env = {"TORCH_CUDA_ARCH_LIST": "9.0"}
    said = load_with_torch(ROOT / "build/load-cpu-cuda", *sources, prelude=prelude, **env)
    assert "loaded" in said


@pytest.mark.long
@pytest.mark.parametrize("cuda", ["0", "1"])
def test_setup_builds_both_variants(tmp_path: Path, cuda: str) -> None:
    if cuda == "1" and load_setup().select_cuda() is None:
        pytest.skip("no nvcc of 12.8 or later")
    env = {"HICACHE_CUDA": cuda}
    run(sys.executable, "setup.py", "-q", "build_ext", "--build-lib", tmp_path, env=env)
    (module,) = tmp_path.glob("hicache_ext/_C.*.so")
    assert (".nv_fatbin" in run(need("readelf"), "-SW", module)) is (cuda == "1")


def test_cmake_lists_every_source(tmp_path: Path) -> None:
    """For IDEs; tests/test_sanitizers.py builds the library, the long test below the module."""
    configure_cmake(tmp_path, sys.executable)
    listed = (tmp_path / "compile_commands.json").read_text()
    expected = read_sources("cpu", "uring") if load_setup().select_uring() else read_sources("cpu")
    assert [path for path in expected if f"/{path}" not in listed] == []


@pytest.mark.long
@pytest.mark.parametrize("version", PYTHONS)
def test_module_builds_and_loads_in_every_python(version: str, tmp_path: Path) -> None:
    """CMake needs no torch in that interpreter, so any that is there will do."""
    python = find_python(version)
    if python is None:
        pytest.skip(f"no Python {version} here")
    configure_cmake(tmp_path, python, CMAKE_UNITY_BUILD="ON")
    run("cmake", "--build", tmp_path, "--target", "_C")
    code = "import sys; sys.path[:0] = [sys.argv[1]]; import _C; print(_C.with_cuda)"
    assert run(python, "-c", code, tmp_path) == "False\n"


# Without site-packages: what needs NumPy or torch stays out, what typing lacks is an error.
IMPORT_ALL = """
import importlib, pkgutil, hicache_ext
num_imported = 0
for module in pkgutil.walk_packages(hicache_ext.__path__, "hicache_ext."):
    try:
        importlib.import_module(module.name)
        num_imported += 1
    except ImportError as error:
        native = error.name == "hicache_ext" and "'_C'" in str(error)
        assert native or error.name in {"numpy", "torch", "rich", "typer", "sglang"}, module.name
print(num_imported)
"""


@pytest.mark.parametrize("version", PYTHONS)
def test_python_part_compiles_and_imports_in_every_python(version: str, tmp_path: Path) -> None:
    python = find_python(version)
    if python is None:
        pytest.skip(f"no Python {version} here")
    env = {"PYTHONPYCACHEPREFIX": str(tmp_path)}
    code = ["python", "tests", "benchmarks", "examples", "setup.py", ".ci"]
    run(python, "-W", "error", "-m", "compileall", "-q", "-f", *code, env=env)
    assert any(tmp_path.rglob("errors.*.pyc")) and any(tmp_path.rglob("setup.*.pyc"))
    assert int(run(python, "-W", "error", "-S", "-c", IMPORT_ALL, env=env)) > 50
