"""Page keys against hashlib: both implementations, lengths around the block size, the chain."""

import hashlib
import random
import struct
import threading

import pytest

from hicache_ext import _C
from hicache_ext.errors import LayoutError, StorageError
from hicache_ext.keys import namespace_seed, page_keys, page_keys_py, token_hash

IMPLS = ["portable", "auto", pytest.param("sha_ni", marks=pytest.mark.skipif(
    not _C.has_sha_ni(), reason="this processor has no SHA extensions"))]  # fmt: skip


def pack(tokens: list[int]) -> bytes:
    return struct.pack(f"<{len(tokens)}I", *tokens)


@pytest.mark.parametrize("impl", IMPLS)
def test_sha256_equals_hashlib_at_every_length_near_a_block(impl: str) -> None:
    rng = random.Random(1)
    for num_bytes in [*range(200), 1000, 4095, 4096, 65537]:
        data = rng.randbytes(num_bytes)
        assert _C.sha256(data, impl) == hashlib.sha256(data).digest(), f"{num_bytes=}"


@pytest.mark.parametrize("impl", IMPLS)
def test_sha256_reads_unaligned_memory(impl: str) -> None:
    data = random.Random(2).randbytes(1000)
    for offset in range(1, 17):
        view = memoryview(data)[offset:]
        assert _C.sha256(view, impl) == hashlib.sha256(view).digest(), f"{offset=}"


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("page_size", [1, 2, 4, 6, 7, 8, 16, 22, 23, 24, 64, 256])
@pytest.mark.parametrize("seed", [b"", bytes(range(32))], ids=["no seed", "seed"])
def test_chain_equals_hashlib(impl: str, page_size: int, seed: bytes) -> None:
    tokens = random.Random(page_size).randbytes(4 * (page_size * 9 + page_size - 1))
    digest, expected = seed, []
    for page_idx in range(9):
        page = tokens[4 * page_size * page_idx : 4 * page_size * (page_idx + 1)]
        digest = hashlib.sha256(digest + page).digest()
        expected.append(digest)
    assert _C.page_keys(tokens, page_size, seed, impl) == expected
    assert page_keys_py(tokens, page_size, seed) == expected


def test_known_answer_pins_the_key_format() -> None:
    # Stored pages outlive a release: these bytes must never change.
    keys = page_keys(pack([1, 2, 3, 4, 5, 0xFFFFFFFF]), 2, namespace_seed(b"lora-7"))
    assert [key.hex()[:16] for key in keys] == KNOWN_KEYS


KNOWN_KEYS = ["c27091cd68f876bc", "0034a171a1697c5f", "c8f2e135acc13404"]


def test_chain_continues_from_the_last_key() -> None:
    tokens = pack(list(range(64)))
    whole = page_keys(tokens, 4)
    assert whole[:5] == page_keys(tokens[: 5 * 16], 4)
    assert whole[5:] == page_keys(tokens[5 * 16 :], 4, whole[4])


def test_one_token_changes_its_page_and_all_after() -> None:
    tokens = list(range(40))
    before = page_keys(pack(tokens), 4)
    tokens[17] += 1
    after = page_keys(pack(tokens), 4)
    assert [a == b for a, b in zip(before, after, strict=True)] == [True] * 4 + [False] * 6


def test_namespaces_separate() -> None:
    seeds = [namespace_seed(name) for name in (b"", b"a", b"b", b"aa", b"\0", b"a\0")]
    assert seeds[0] == b"" and all(len(seed) == 32 for seed in seeds[1:])
    first_keys = {page_keys(pack([1, 2]), 2, seed)[0] for seed in seeds}
    assert len(first_keys) == len(seeds)


def test_no_page_no_key() -> None:
    assert page_keys(b"", 16) == []
    assert page_keys(pack([1] * 15), 16) == []
    assert page_keys(pack([1] * 15), 2**62) == []


def test_accepts_bytes_like_objects() -> None:
    tokens = pack(list(range(32)))
    for form in (bytearray(tokens), memoryview(tokens)):
        assert page_keys(form, 4) == page_keys(tokens, 4)
    with pytest.raises(BufferError):
        page_keys(memoryview(tokens)[::2], 4)


@pytest.mark.parametrize("function", [page_keys, page_keys_py])
def test_bad_input_names_the_value(function) -> None:
    with pytest.raises(LayoutError, match="page_size=0"):
        function(b"1234", 0)
    with pytest.raises(LayoutError, match="page_size=-3"):
        function(b"1234", -3)
    with pytest.raises(LayoutError, match="5 bytes"):
        function(b"12345", 1)
    with pytest.raises(LayoutError, match="31 bytes"):
        function(b"1234", 1, b"x" * 31)
    with pytest.raises(StorageError, match="impl=md5"):
        _C.sha256(b"", "md5")


def test_gil_is_released_while_hashing() -> None:
    # This takes tenths of a second; with the GIL held, this thread could not count meanwhile.
    tokens, done = bytes(64 << 20), threading.Event()
    hashing = lambda: (_C.page_keys(tokens, 1 << 20, b"", "portable"), done.set())  # noqa: E731
    thread = threading.Thread(target=hashing)
    thread.start()
    num_turns = 0
    while not done.wait(0.001):
        num_turns += 1
    thread.join()
    assert num_turns >= 3


def test_token_hash_fits_a_lane_and_tells_tokens_apart():
    tokens = [bytes(4 * n) for n in range(50)] + [bytes([i, 0, 0, 0]) for i in range(1, 50)]
    hashes = {token_hash(part) for part in tokens}
    assert len(hashes) == len(tokens) and all(0 <= value < 1 << 62 for value in hashes)
    assert max(hashes) >> 60 and token_hash(b"abcd") == token_hash(b"abcd")
