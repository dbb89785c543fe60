"""Token keys: packing to bytes, comparing by pages, the hash chain. Pure Python, standard library
only.

The tree stores the tokens of an edge as u32 little-endian bytes: one comparison is one memcmp, a
page is a slice, and the same bytes are what the hash chain is computed over.
"""

import hashlib
import operator
import sys
from array import array
from collections.abc import Iterable, Sequence
from typing import Any, Protocol

from hicache_ext.errors import TreeError

TOKEN_BYTES = 4
_TOKEN_LIMIT = 1 << 32
_NAMESPACE_TAG = b"hicache_ext-namespace-v1"


class PageKeys(Protocol):
    """The hash chain: a 32-byte digest per page of `tokens`; `seed` is the one before page 0."""

    def __call__(self, tokens: bytes, page_size: int, seed: bytes) -> list[bytes]: ...


def pack_tokens(tokens: Sequence[int] | bytes | Any) -> bytes:
    """Token ids as u32-LE bytes. Takes ints in any sequence (list, NumPy, torch) or bytes already
    packed.

    Raises TreeError, with position and value, for an id that is negative, wider than 32 bits or no
    integer.
    """
    if isinstance(tokens, (bytes, bytearray, memoryview)):
        packed = bytes(tokens)
        if len(packed) % TOKEN_BYTES:
            raise TreeError(f"packed tokens must be u32: {len(packed)} bytes is no multiple of 4")
        return packed
    ids = tokens.tolist() if hasattr(tokens, "tolist") else tokens
    try:
        words = array("I", ids)
    except (OverflowError, TypeError, ValueError):
        raise TreeError(_explain_bad_token(ids)) from None
    if sys.byteorder == "big":
        words.byteswap()
    return words.tobytes()


def _explain_bad_token(ids: Iterable[Any]) -> str:
    if not isinstance(ids, Iterable):
        return f"tokens must be a sequence of ints, got {type(ids).__name__}"
    for position, token in enumerate(ids):
        try:
            value = operator.index(token)
        except TypeError:
            return f"token at position {position} is no integer: {token!r}"
        if not 0 <= value < _TOKEN_LIMIT:
            return f"token at position {position} does not fit 32 bits: {value}"
    return f"tokens cannot be packed: {type(ids).__name__}"


def common_pages(edge: bytes, tokens: bytes, offset: int, page_bytes: int) -> int:
    """How many leading pages of `edge` equal `tokens` from byte `offset` on."""
    if tokens.startswith(edge, offset):
        return len(edge) // page_bytes
    low, high = 0, min(len(edge), len(tokens) - offset) // page_bytes
    while low < high:  # pages [0, low) are equal, pages [0, high + 1) are not
        mid = (low + high + 1) // 2
        begin, end = low * page_bytes, mid * page_bytes
        if edge[begin:end] == tokens[offset + begin : offset + end]:
            low = mid
        else:
            high = mid - 1
    return low


def hash_chain_py(tokens: bytes, page_size: int, seed: bytes = b"") -> list[bytes]:
    """key_i = SHA-256(key_{i-1} || tokens of page i as u32-LE); `seed` stands for key_{-1}.

    The plain twin of the native hicache_ext.keys.page_keys: same arguments, same digests.
    """
    page_bytes = page_size * TOKEN_BYTES
    keys: list[bytes] = []
    digest = seed
    for offset in range(0, len(tokens) - page_bytes + 1, page_bytes):
        digest = hashlib.sha256(digest + tokens[offset : offset + page_bytes]).digest()
        keys.append(digest)
    return keys


def namespace_seed_py(namespace: bytes) -> bytes:
    """The digest before page 0: b"" without a namespace, else a tagged and length-coded SHA-256."""
    if not namespace:
        return b""
    length = len(namespace).to_bytes(8, "little")
    return hashlib.sha256(_NAMESPACE_TAG + length + namespace).digest()
