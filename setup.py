"""Build hicache_ext._C with torch's BuildExtension (ninja) from the list in csrc/sources.txt.

Environment: HICACHE_CUDA=0|1 forces the CUDA part off or on (default: on where nvcc >= 12.8 is),
HICACHE_URING=0|1 the same for io_uring (default: on where liburing 2.2 and its static library are),
HICACHE_CUDA_ARCHS="90" builds for fewer architectures, HICACHE_CUDART=shared links cudart shared
(test builds), MAX_JOBS limits the parallel compiles.
"""

import os
import re
import shutil
import subprocess
from pathlib import Path

from setuptools import Extension, setup

ROOT = Path(__file__).resolve().parent
MIN_NVCC = (12, 8)  # the first release that knows sm_100 and sm_120
URING_FLAGS = ["-l:liburing.a"]
SOURCES_PER_UNIT = {"tree": 24, "bindings": 13}  # by folder of csrc; two cores share the bindings


def find_cuda_home() -> Path:
    """CUDA_HOME, else the toolkit of the nvcc on the PATH, else /usr/local/cuda (may not exist)."""
    if home := os.environ.get("CUDA_HOME") or os.environ.get("CUDA_PATH"):
        return Path(home)
    if nvcc := shutil.which("nvcc"):
        # It may be a wrapper script far from its toolkit: ask where the real one lives.
        dry_run = [nvcc, "--dryrun", "-x", "cu", "/dev/null"]
        text = subprocess.run(dry_run, capture_output=True, text=True).stderr
        if here := re.search(r"_HERE_=(.*)", text):
            return Path(here[1].strip()).parent
    return Path("/usr/local/cuda")


def nvcc_version(cuda_home: Path) -> tuple[int, ...]:
    """(major, minor), or () where there is no nvcc that runs."""
    try:
        run = subprocess.run([cuda_home / "bin/nvcc", "--version"], capture_output=True, text=True)
    except OSError:
        return ()
    release = re.search(r"release (\d+)\.(\d+)", run.stdout)
    return tuple(map(int, release.groups())) if release else ()


def select_cuda() -> Path | None:
    """The toolkit to build with, or None for a CPU-only build."""
    if (want := os.environ.get("HICACHE_CUDA")) == "0":
        return None
    if (version := nvcc_version(home := find_cuda_home())) >= MIN_NVCC:
        return home
    found = "nvcc {}.{}".format(*version) if version else "no nvcc"
    reason = "{} in {}/bin, and the CUDA part needs {}.{} or later".format(found, home, *MIN_NVCC)
    if want == "1":
        raise SystemExit(f"HICACHE_CUDA=1, but {reason}; set CUDA_HOME")
    print(f"hicache_ext: building the CPU part only: {reason}")
    return None


def select_uring() -> bool:
    """Whether the compiler finds liburing and its static library."""
    if (want := os.environ.get("HICACHE_URING")) == "0":
        return False
    # In 2.1, that of Ubuntu 22.04, the function is missing.
    code = "#include <liburing.h>\nauto probe = io_uring_register_buffers_sparse;"
    command = [os.environ.get("CXX", "c++"), "-shared", "-fPIC", "-x", "c++", "-", *URING_FLAGS]
    done = subprocess.run([*command, "-o", os.devnull], input=code.encode(), capture_output=True)
    if done.returncode != 0:
        reason = "no liburing 2.2 or later with its static library (Debian: liburing-dev)"
        if want == "1":
            raise SystemExit(f"HICACHE_URING=1, but {reason}")
        print(f"hicache_ext: building without io_uring, on threads instead: {reason}")
    return done.returncode == 0


def unite_sources(sources: list[str], folder: Path) -> list[str]:
    """The sources, those of the folders in SOURCES_PER_UNIT through a few units that include them.

    Reading pybind11's headers, or those of the containers, costs a compiler more than all that one
    of these files says itself.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for name, num_per_unit in SOURCES_PER_UNIT.items():
        members = [path for path in sources if path.startswith(f"csrc/{name}/")]
        num_units = -(-len(members) // num_per_unit)
        units = [os.path.relpath(folder / f"{name}_{i}.cpp", ROOT) for i in range(num_units)]
        for i, unit in enumerate(units):
            paths = [os.path.relpath(ROOT / path, folder) for path in members[i::num_units]]
            text = "".join(f'#include "{path}"\n' for path in paths)
            if (
                not (ROOT / unit).exists() or (ROOT / unit).read_text() != text
            ):  # ninja goes by time
                (ROOT / unit).write_text(text)
        sources = [*units, *(path for path in sources if path not in members)]
    return sources


def make_extension(cuda_home: Path | None, *, with_uring: bool = False) -> Extension:
    """A plain Extension, not a CUDAExtension: nothing of torch is included or linked."""
    import pybind11

    kinds = "cpu" + "|cuda" * bool(cuda_home) + "|uring" * with_uring
    listed = (ROOT / "csrc/sources.txt").read_text()
    ext = Extension("hicache_ext._C", re.findall(rf"(?m)^(?:{kinds}) (\S+)$", listed))
    ext.include_dirs = [str(ROOT / "csrc/include"), pybind11.get_include()]
    wheel = Path(pybind11.__file__).parents[1].glob("nvidia/*/include/nvtx3")  # of nvidia-nvtx
    ext.include_dirs += [str(path.parent) for path in wheel if not cuda_home]  # or the toolkit's
    ext.libraries = ["rt", "dl", "pthread"]
    if with_uring:
        ext.define_macros.append(("HICACHE_WITH_URING", None))
        ext.extra_link_args = URING_FLAGS
    host = ["-O3", "-g0", "-Wall", "-Wextra", "-Werror", "-fvisibility=hidden"]
    if cuda_home:
        shared = os.environ.get("HICACHE_CUDART") == "shared"
        ext.define_macros.append(("HICACHE_WITH_CUDA", None))
        ext.include_dirs.append(str(cuda_home / "include"))
        ext.library_dirs = [str(cuda_home / sub) for sub in ("lib64", "lib")]
        ext.runtime_library_dirs = ext.library_dirs if shared else []
        ext.libraries.insert(0, "cudart" if shared else "cudart_static")
    archs = re.findall(r"\w+", os.environ.get("HICACHE_CUDA_ARCHS") or "80 90 100 120")
    codes = [f"-gencode=arch=compute_{a},code=sm_{a}" for a in archs]
    codes.append(f"-gencode=arch=compute_{archs[-1]},code=compute_{archs[-1]}")  # PTX: later GPUs
    nvcc = ["-O3", "-std=c++20", "--threads=2", "-Werror=all-warnings", *codes]
    nvcc += [f"-Xcompiler={flag}" for flag in host]
    ext.extra_compile_args = {"cxx": [*host, "-std=c++20"], "nvcc": nvcc}
    return ext


def main() -> None:
    try:
        from torch.utils import cpp_extension
    except ImportError:
        raise SystemExit("install torch first, then pip install --no-build-isolation .") from None
    cuda_home = select_cuda()
    if cuda_home:
        # A CPU-only torch knows no CUDA_HOME and lets no .cu follow its headers, and a CUDA torch
        # refuses an nvcc of another major release. Neither matters to a module without torch in it.
        cpp_extension.CUDA_HOME = str(cuda_home)
        cpp_extension._check_cuda_version = lambda *_: None
        cpp_extension.torch.version.cuda = "{}.{}".format(*nvcc_version(cuda_home))

    class Build(cpp_extension.BuildExtension):
        def finalize_options(self) -> None:
            super().finalize_options()
            # One folder for pip and build_ext alike.
            self.build_temp = str(ROOT / "build" / ("cuda" if cuda_home else "cpu"))
            self.force = True  # ninja judges what is stale, not the age of the module

        def build_extensions(self) -> None:
            for ext in self.extensions:
                ext.sources = unite_sources(ext.sources, Path(self.build_temp))
            super().build_extensions()

    setup(
        ext_modules=[make_extension(cuda_home, with_uring=select_uring())],
        cmdclass={"build_ext": Build},
    )


if __name__ == "__main__":
    main()
