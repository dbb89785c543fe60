"""What the built package is: free of torch, importable without driver and NCCL, quick to import."""

import json
import os
import re
import statistics
import subprocess
import sys

import pytest
from build_tools import ROOT, need, read_sources, run

from hicache_ext import _C, errors

# Loads the module alone, without the package around it, and tells what came with it.
LOAD_ALONE = """
import importlib.machinery, importlib.util, json, sys
loader = importlib.machinery.ExtensionFileLoader("hicache_ext._C", sys.argv[1])
spec = importlib.util.spec_from_loader("hicache_ext._C", loader)
loader.exec_module(importlib.util.module_from_spec(spec))
maps = sorted({line.split()[-1] for line in open("/proc/self/maps") if ".so" in line})
print(json.dumps({"maps": maps, "torch": "torch" in sys.modules}))
"""


def test_module_alone_needs_no_driver_no_nccl_no_torch() -> None:
    told = json.loads(run(sys.executable, "-c", LOAD_ALONE, _C.__file__))
    assert _C.__file__ in told["maps"]
    foreign = [path for path in told["maps"] if re.search(r"libcuda|libnccl|libtorch|libc10", path)]
    assert foreign == []
    assert told["torch"] is False


def test_module_links_only_the_system() -> None:
    needed = set(re.findall(r"NEEDED.*\[(.*?)\]", run(need("readelf"), "-d", _C.__file__)))
    assert "libc.so.6" in needed
    system = r"lib(stdc\+\+|gcc_s|c|m|rt|dl|pthread|asan|ubsan|tsan|cudart)\.so.*|ld-linux.*"
    assert [name for name in needed if not re.fullmatch(system, name)] == []


def test_module_asks_for_no_torch_symbol() -> None:
    symbols = run(need("nm"), "-DC", "--undefined-only", _C.__file__)
    assert "PyObject_" in symbols
    assert re.findall(r"\b(?:c10|at|torch)::.*", symbols) == []


def test_with_cuda_tells_the_truth() -> None:
    sections = run(need("readelf"), "-SW", _C.__file__)
    assert (".nv_fatbin" in sections) is (_C.with_cuda and read_sources("cuda") != [])


def test_native_errors_are_the_package_errors() -> None:
    """Every kind that C++ can raise is a class of errors.py, so no except clause is missed."""
    source = (ROOT / "csrc/bindings/module.cpp").read_text()
    named = re.findall(r'return "(\w+Error)";', source)
    check_h = (ROOT / "csrc/include/hicache/check.h").read_text()
    kinds = re.search(r"enum class ErrorKind \{(.*?)\}", check_h, re.S)
    assert kinds is not None and len(kinds[1].split(",")) == len(named) - 1
    for name in named:
        assert issubclass(getattr(errors, name), errors.HiCacheError)


# Children forked after `import torch` measure what the package adds, each from the same start; in
# time of the processor, as others may have it meanwhile.
IMPORT_TIMES = """
import os, sys, time, torch
for _ in range(7):
    if os.fork() == 0:
        start = time.process_time()
        import hicache_ext, hicache_ext._C
        print(time.process_time() - start, flush=True)
        os._exit(0)
    os.wait()
"""


def test_import_is_quick_beyond_torch() -> None:
    times = [float(value) for value in run(sys.executable, "-c", IMPORT_TIMES).split()]
    assert len(times) == 7
    assert statistics.median(times) < 0.3, times


def test_copies_import_without_torch() -> None:
    code = "import sys, hicache_ext.copy; print('torch' in sys.modules)"
    assert run(sys.executable, "-c", code).strip() == "False"


@pytest.mark.parametrize("module", ["hicache_ext.tree", "hicache_ext.errors", "hicache_ext.tier"])
def test_tree_imports_without_torch_and_native(module: str) -> None:
    """The control plane of the tree runs where neither is installed."""
    code = (
        "import sys\n"
        "for name in ('torch', 'numpy', 'hicache_ext._C'): sys.modules[name] = None\n"
        f"import {module}\n"
        "print('imported')\n"
    )
    env = os.environ | {"PYTHONPATH": str(ROOT / "python")}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env)
    assert done.stdout == "imported\n", done.stderr
