"""Fuzz of what a store finds on the disk: tests/cpp/fuzz_store.cpp under ASan and UBSan.

Built with clang and libFuzzer where clang++ is on the PATH, else with gcc and fuzz_main.cpp.

python -m store_fuzz [--seconds N] [--seed N]
"""

import argparse
import secrets
import shutil
import sys
import tempfile
from pathlib import Path

from build_tools import ROOT, configure_cmake, run


def fuzz(seconds: int, seed: int) -> str:
    """What the fuzzer said at its end. AssertionError, with its report, if an input was too much:
    that lies in `out/fuzz-store`, and `fuzz_store FILE` runs it again.
    """
    compiler = shutil.which("clang++") or shutil.which("g++") or "c++"
    folder = ROOT / "build" / f"fuzz-{Path(compiler).name}"
    options = {"HICACHE_FUZZ": "ON", "HICACHE_SANITIZE": "address,undefined"}
    configure_cmake(folder, sys.executable, CMAKE_CXX_COMPILER=compiler, **options)
    run("cmake", "--build", folder, "--target", "fuzz_store")
    crashes = ROOT / "out" / "fuzz-store"
    crashes.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as inputs:
        program = folder / "fuzz_store"
        run(program, env={"HICACHE_FUZZ_SEEDS": inputs})
        options = (f"-max_total_time={seconds}", f"-seed={seed}", f"-artifact_prefix={crashes}/")
        return run(program, *options, inputs)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", type=int, default=600)
    parser.add_argument("--seed", type=int, default=secrets.randbits(31))
    args = parser.parse_args()
    print(f"seed {args.seed}", flush=True)
    print("\n".join(fuzz(args.seconds, args.seed).splitlines()[-3:]))
