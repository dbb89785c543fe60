"""Page keys: a SHA-256 chain over the tokens; a key names the whole prefix up to its page."""

import hashlib
from zlib import crc32

from .errors import LayoutError

KEY_BYTES = 32
TOKEN_BYTES = 4  # tokens are packed as u32, little endian

_NAMESPACE_TAG = b"hicache_ext-namespace-v1"


def namespace_seed(namespace: bytes) -> bytes:
    """The digest before page 0: b"" without a namespace, else 32 bytes.

    The tag and the length make the hashed form unambiguous: no other input here begins so.
    """
    if not namespace:
        return b""
    length = len(namespace).to_bytes(8, "little")
    return hashlib.sha256(_NAMESPACE_TAG + length + namespace).digest()


def checksum_seed(key: bytes) -> int:
    """Seeds the checksum of a page, xxh3_128: its bytes are worth nothing under another key."""
    return int.from_bytes(key[:8], "little")


def page_checksum(key: bytes, page: memoryview) -> bytes:
    """What is stored with a page, 16 bytes. Native, and the GIL is released."""
    from . import _C

    return _C.xxh3_128_digest(page, seed=checksum_seed(key))


def page_keys(tokens: bytes, page_size: int, seed: bytes = b"") -> list[bytes]:
    """One 32-byte key per whole page: key_i = sha256(key_{i-1} || tokens of page i).

    `tokens` are u32-LE (any contiguous bytes-like object, borrowed for the call); a last page that
    is not full has no key. `seed` takes the place of key_{-1}: a namespace_seed(), or the last key
    of the part that comes before. Native, and the GIL is released while it hashes.
    LayoutError on a page size below 1, tokens of a broken length, or a seed of another length.
    """
    from . import _C  # not at module level: the pure-Python parts of this file need no build

    return _C.page_keys(tokens, page_size, seed)


def page_keys_py(tokens: bytes, page_size: int, seed: bytes = b"") -> list[bytes]:
    """page_keys() by hashlib: the reference of its tests, and what a tree without a build uses."""
    if page_size < 1:
        raise LayoutError(f"page_size={page_size}, expected at least 1")
    if len(tokens) % TOKEN_BYTES:
        raise LayoutError(f"tokens are {len(tokens)} bytes, not a multiple of 4 (u32 each)")
    if len(seed) not in (0, KEY_BYTES):
        raise LayoutError(f"seed is {len(seed)} bytes, expected 0 or 32")
    page_bytes = page_size * TOKEN_BYTES
    num_pages = len(tokens) // page_bytes
    keys = []
    for page_idx in range(num_pages):
        page = tokens[page_idx * page_bytes : (page_idx + 1) * page_bytes]
        seed = hashlib.sha256(seed + page).digest()
        keys.append(seed)
    return keys


def token_hash(tokens: bytes) -> int:
    """62 bits (XXH3) that tell token sequences apart in a log or a digest. Native: 10 GB/s and up.

    Not for keys of pages: it is no cryptographic hash.
    """
    from . import _C

    return int.from_bytes(_C.xxh3_128_digest(tokens)[:8], "little") >> 2


def token_hash_py(tokens: bytes) -> int:
    """What a tree without a build uses: another value, of 32 bits."""
    return crc32(tokens)
