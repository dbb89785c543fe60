"""Token keys: packing to bytes, comparing by pages.

The tree stores the tokens of an edge as u32 little-endian bytes: one comparison is one memcmp, a
page is a slice, and the same bytes are what hicache_ext.keys computes the hash chain over.
"""

import operator
import sys
from array import array
from collections.abc import Iterable, Sequence
from enum import Enum
from typing import Any, Protocol

from hicache_ext.errors import TreeError
from hicache_ext.keys import TOKEN_BYTES

_TOKEN_LIMIT = 1 << 32
_PACKED = (bytes, bytearray, memoryview)


class KeyUnit(Enum):
    """What one position of a key is, and so what makes two positions equal.

    BIGRAM is for speculative decoding after EAGLE: the draft model's KV at a position depends on
    the token there and on the next one. N tokens are N - 1 positions, [a b c] -> [(a b) (b c)].
    A position is still one token of KV: lengths and page sizes count positions.
    """

    TOKEN = "token"
    BIGRAM = "bigram"

    @property
    def num_words(self) -> int:
        """u32 words of one position."""
        return 2 if self is KeyUnit.BIGRAM else 1

    @property
    def num_bytes(self) -> int:
        return self.num_words * TOKEN_BYTES

    def pack(self, tokens: Sequence[int] | bytes | Any) -> bytes:
        """The positions of `tokens` as bytes; see pack_tokens for what may be given."""
        packed = pack_tokens(tokens)
        if self is KeyUnit.TOKEN:
            return packed
        words = array("I", packed)
        pairs = array("I", bytes(max(0, len(words) - 1) * self.num_bytes))
        pairs[0::2], pairs[1::2] = words[:-1], words[1:]
        return pairs.tobytes()

    def unpack(self, packed: bytes) -> list[Any]:
        """The positions again: token ids, or (id, id) pairs."""
        words = array("I", packed)
        if sys.byteorder == "big":
            words.byteswap()
        ids = words.tolist()
        return ids if self is KeyUnit.TOKEN else list(zip(ids[0::2], ids[1::2], strict=True))

    def key(self, tokens: Sequence[int] | bytes | Any) -> bytes:
        """What a call of the tree makes of its `tokens`: bytes are positions that pack() made."""
        if not isinstance(tokens, _PACKED):
            return self.pack(tokens)
        packed = bytes(tokens)
        if len(packed) % self.num_bytes:
            raise TreeError(
                f"packed tokens are {self.num_bytes} bytes each: {len(packed)} bytes is no "
                f"multiple of {self.num_bytes}"
            )
        return packed


class PageKeys(Protocol):
    """The hash chain: a 32-byte digest per page of `tokens`; `seed` is the one before page 0.

    `page_size` is in u32 words, of which a position of a key may have several.
    """

    def __call__(self, tokens: bytes, page_size: int, seed: bytes) -> list[bytes]: ...


def pack_tokens(tokens: Sequence[int] | bytes | Any) -> bytes:
    """Token ids as u32-LE bytes. Takes ints in any sequence (list, NumPy, torch) or bytes already
    packed.

    Raises TreeError, with position and value, for an id that is negative, wider than 32 bits or no
    integer. A bool among ints is the int that it is to Python; a sequence of bools is a mistake.
    """
    if isinstance(tokens, _PACKED):
        packed = bytes(tokens)
        if len(packed) % TOKEN_BYTES:
            raise TreeError(f"packed tokens must be u32: {len(packed)} bytes is no multiple of 4")
        return packed
    ids = tokens
    if hasattr(tokens, "tolist"):
        fast = _pack_array(tokens)
        if fast is not None:
            return fast
        ids = tokens.tolist()  # slow, but names what is wrong
    try:
        words = array("I", ids)
    except (OverflowError, TypeError, ValueError):
        raise TreeError(_explain_bad_token(ids)) from None
    if words and isinstance(ids, Sequence) and isinstance(ids[0], bool):
        raise TreeError(f"token at position 0 is no integer: {ids[0]!r}")
    if sys.byteorder == "big":
        words.byteswap()
    return words.tobytes()


def _pack_array(tokens: Any) -> bytes | None:
    """A row of integers in NumPy, CuPy or torch that fit 32 bits, 40 times as fast as a list."""
    if hasattr(tokens, "cpu"):  # torch
        if tokens.is_floating_point():
            return None
        tokens = tokens.cpu().numpy()
    kind = getattr(getattr(tokens, "dtype", None), "kind", "")
    if kind not in ("i", "u") or tokens.ndim != 1:
        return None
    if len(tokens) and not 0 <= int(tokens.min()) <= int(tokens.max()) < _TOKEN_LIMIT:
        return None
    return bytes(tokens.astype("<u4").tobytes())


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
