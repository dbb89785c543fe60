"""Build hicache_ext._C with torch.utils.cpp_extension; the sources are listed in csrc/sources.txt."""

import os
import re
import shutil
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parent


def find_cuda_home() -> str | None:
    if os.environ.get("CUDA_HOME"):
        return os.environ["CUDA_HOME"]
    nvcc = shutil.which("nvcc")
    if nvcc is None:
        return None
    # nvcc on the PATH may be a wrapper script: ask it where its own toolkit is.
    text = subprocess.run([nvcc, "--dryrun", "-x", "cu", "/dev/null"], capture_output=True, text=True).stderr
    top = re.search(r"_HERE_=(.*)", text)
    return str(Path(top.group(1).strip()).parent) if top else None


want = os.environ.get("HICACHE_CUDA")
cuda_home = None if want == "0" else find_cuda_home()
if cuda_home:
    os.environ["CUDA_HOME"] = cuda_home

import pybind11  # noqa: E402
from setuptools import setup  # noqa: E402
from torch.utils import cpp_extension  # noqa: E402
from torch.utils.cpp_extension import BuildExtension, CppExtension, CUDAExtension  # noqa: E402

# A CPU-only torch reports no CUDA_HOME even where the variable is set.
cpp_extension.CUDA_HOME = cuda_home

lines = [line.split() for line in (ROOT / "csrc/sources.txt").read_text().splitlines() if line and not line.startswith("#")]
sources = [path for kind, path in lines if kind == "cpu" or cuda_home]
kinds = dict(
    include_dirs=[str(ROOT / "csrc/include"), pybind11.get_include()],
    extra_compile_args={
        "cxx": ["-O3", "-std=c++20", "-Wall", "-Wextra", "-Werror", "-fvisibility=hidden"],
        "nvcc": ["-O3", "-std=c++20", "--threads=2"],
    },
)
if cuda_home:
    kinds["extra_compile_args"]["cxx"].append("-DHICACHE_WITH_CUDA")
    kinds["extra_compile_args"]["nvcc"] += [
        flag for a in ("80", "90", "100", "120") for flag in ("-gencode", f"arch=compute_{a},code=sm_{a}")
    ] + ["-gencode", "arch=compute_120,code=compute_120", "-Xcompiler", "-Wall,-Wextra"]
    ext = CUDAExtension("hicache_ext._C", sources, **kinds)
    ext.libraries = ["cudart_static", "rt", "dl", "pthread"]
else:
    ext = CppExtension("hicache_ext._C", sources, **kinds)
    ext.libraries = ["rt", "dl", "pthread"]

setup(ext_modules=[ext], cmdclass={"build_ext": BuildExtension})
