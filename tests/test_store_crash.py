"""The crash and power-failure programs of the page store at length; quickly they run in ctest."""

import secrets
import sys

import pytest
from build_tools import ROOT, configure_cmake, run


@pytest.mark.long
@pytest.mark.parametrize("name", ["test_store_crash", "test_store_torn"])
def test_100_000_times(name: str) -> None:
    """From a seed that is printed: `NAME 2000 SEED` replays it."""
    folder = ROOT / "build" / "store-crash"
    configure_cmake(folder, sys.executable)
    run("cmake", "--build", folder, "--target", name)
    seed = str(secrets.randbits(32))
    print(f"{name} 100000 {seed}")
    run(folder / name, "100000", seed)
