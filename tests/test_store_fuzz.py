"""Whatever lies on the disk: no crash, no wrong byte (tests/cpp/fuzz_store.cpp)."""

import secrets

import pytest
from store_fuzz import fuzz


@pytest.mark.long
@pytest.mark.parametrize("block", range(4))
def test_any_shard_for_ten_minutes(block: int) -> None:
    """In four blocks, each from a seed that is printed: `make fuzz-store SEED=n` replays it."""
    seed = secrets.randbits(31)
    print(f"seed {seed}")
    fuzz(150, seed)
