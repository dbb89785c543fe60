"""The crash and power-failure programs of the page store at length; quickly they run in ctest."""

import secrets
import sys

import pytest
from build_tools import ROOT, configure_cmake, run

NUM_BLOCKS = 10


@pytest.mark.long
@pytest.mark.parametrize("block", range(NUM_BLOCKS))
@pytest.mark.parametrize("name", ["test_store_crash", "test_store_torn"])
def test_100_000_times(name: str, block: int) -> None:
    """In blocks of 10 000, each from a seed that is printed: `NAME 10000 SEED` replays it."""
    folder = ROOT / "build" / "store-crash"
    configure_cmake(folder, sys.executable, CMAKE_BUILD_TYPE="Release")
    run("cmake", "--build", folder, "--target", name)
    num_times, seed = str(100_000 // NUM_BLOCKS), str(secrets.randbits(32))
    print(f"{name} {num_times} {seed}")
    run(folder / name, num_times, seed)
