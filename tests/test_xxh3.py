"""XXH3-128 against the reference implementation, on every instruction set."""

from __future__ import annotations

import random

import pytest
import xxhash

from hicache_ext import _C
from hicache_ext.errors import LayoutError

SEEDS = (0, 1, 2**64 - 1, 0x9E3779B185EBCA8D)


@pytest.fixture(params=["portable", "avx2", "avx512"])
def isa(request: pytest.FixtureRequest) -> str:
    if not _C.has_isa(request.param):
        pytest.skip(f"this processor has no {request.param}")
    return str(request.param)


@pytest.mark.parametrize("seed", SEEDS)
def test_every_length(seed: int, isa: str) -> None:
    """The formulas for short messages; stripes and blocks of the long one at every remainder."""
    data = random.Random(seed).randbytes(3000)
    for num_bytes in (*range(1300), *range(2040, 2060), 3000):
        part = memoryview(data)[3000 - num_bytes :]  # at every alignment
        expected = xxhash.xxh3_128_digest(part, seed=seed)
        assert _C.xxh3_128_digest(part, seed=seed, isa=isa) == expected, num_bytes


def test_a_large_page(isa: str) -> None:
    data = random.Random(7).randbytes((1 << 20) + 37)
    assert _C.xxh3_128_digest(data, seed=5, isa=isa) == xxhash.xxh3_128_digest(data, seed=5)


def test_the_frozen_format() -> None:
    """What is on disk stays readable: these digests never change."""
    assert _C.xxh3_128_digest(b"").hex() == "99aa06d3014798d86001c324468d497f"
    assert _C.xxh3_128_digest(bytes(range(256)), seed=1).hex() == "586a92837993221b524dd680208515eb"


def test_bad_input() -> None:
    with pytest.raises(LayoutError, match="isa='sse9' is none of"):
        _C.xxh3_128_digest(b"", isa="sse9")
    with pytest.raises(TypeError):
        _C.xxh3_128_digest("text")
    with pytest.raises(TypeError):
        _C.xxh3_128_digest(b"", seed=-1)
