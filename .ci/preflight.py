"""Say in one line what a machine lacks before `make` sets anything up. Standard library only.

What is useful but not needed is installed where that may be done, and named where not.
"""

import ctypes.util
import os
import shutil
import subprocess
import sys
import sysconfig
from importlib.util import find_spec

APT = ["apt-get", "-qq", "-o", "DPkg::Lock::Timeout=60"]
MAX_APT_S = 300


def find_missing() -> list[str]:
    """The Debian packages without which nothing can be built."""
    version = "{}.{}".format(*sys.version_info)
    missing = []
    if find_spec("venv") is None or find_spec("ensurepip") is None:
        missing.append(f"python{version}-venv")
    if not os.path.exists(os.path.join(sysconfig.get_path("include"), "Python.h")):
        missing.append(f"python{version}-dev")
    if not shutil.which(os.environ.get("CXX", "c++")):
        missing.append("g++")
    return missing


def find_lacking() -> dict[str, str]:
    """The Debian packages that are useful, and what there is without them."""
    lacking = {}
    headers = ("/usr/include/liburing.h", "/usr/local/include/liburing.h")
    if not any(map(os.path.exists, headers)):
        lacking["liburing-dev"] = "pages are read and written on threads, without io_uring"
    if not shutil.which("fio"):
        lacking["fio"] = "`make bench-store` has no yardstick"
    if not ctypes.util.find_library("ibverbs"):
        lacking["libibverbs1"] = "MooncakeStore cannot be used"
    return lacking


def install(packages: list[str]) -> None:
    """As root with apt-get, quietly; a machine without network or rights goes on without them."""
    if not packages or os.geteuid() != 0 or not shutil.which("apt-get"):
        return
    print(f"installing {' '.join(packages)}")
    for command in (["update"], ["install", "-y", "--no-install-recommends", *packages]):
        try:
            done = subprocess.run([*APT, *command], capture_output=True, timeout=MAX_APT_S)
        except subprocess.TimeoutExpired:
            return
        if done.returncode != 0:
            return


def main() -> None:
    if not (3, 10) <= sys.version_info[:2] <= (3, 13):
        version = "{}.{}".format(*sys.version_info)
        sys.exit(f"Python 3.10 to 3.13 is needed, this is {version}: make PYTHON=python3.12 ...")
    if missing := find_missing():
        sys.exit(f"missing on this machine: sudo apt-get install {' '.join(missing)}")
    install(list(find_lacking()))
    for package, without in find_lacking().items():
        print(f"without {package}: {without} (sudo apt-get install {package})")


if __name__ == "__main__":
    main()
