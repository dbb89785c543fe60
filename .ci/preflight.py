"""Say in one line what a machine lacks before `make` sets anything up. Standard library only."""

import os
import shutil
import sys
import sysconfig
from importlib.util import find_spec

version = "{}.{}".format(*sys.version_info)
missing = []
if not (3, 10) <= sys.version_info[:2] <= (3, 13):
    sys.exit(f"Python 3.10 to 3.13 is needed, this is {version}: make PYTHON=python3.12 ...")
if find_spec("venv") is None or find_spec("ensurepip") is None:
    missing.append(f"python{version}-venv")
if not os.path.exists(os.path.join(sysconfig.get_path("include"), "Python.h")):
    missing.append(f"python{version}-dev")
if not shutil.which(os.environ.get("CXX", "c++")):
    missing.append("g++")
if missing:
    sys.exit(f"missing on this machine: sudo apt-get install {' '.join(missing)}")
