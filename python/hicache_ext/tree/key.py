"""Token keys: packing to bytes, comparing by pages.

The tree stores the tokens of an edge as u32 little-endian bytes: one comparison is one memcmp, a
page is a slice, and the same bytes are what hicache_ext.keys computes the hash chain over.
"""

import operator
import sys
from array import array
from collections.abc import Iterable, Sequence
from typing import Any, Protocol

from hicache_ext.errors import TreeError
from hicache_ext.keys import TOKEN_BYTES

_TOKEN_LIMIT = 1 << 32


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
