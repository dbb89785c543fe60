"""Page keys of 131 072 tokens: against the same chain by hashlib, and against SHA-256 at its limit.

The limit is one hashlib.sha256 over as many 64-byte blocks as the chain compresses: no chain can be
faster than the block function. Figures are million tokens per CPU second of this thread.
"""

import hashlib
import sys
import time
from collections.abc import Callable

from benchmarks.harness import Row, Table, interleaved, parse_args
from hicache_ext.keys import page_keys, page_keys_py

NUM_TOKENS = 131_072
PAGE_SIZES = (1, 16, 64, 256)
# At a page of one token, making the 131 072 key objects costs about as much as hashing them.
LIMIT_TARGETS = {1: None, 16: 0.6, 64: 0.7, 256: 0.8}


def num_blocks(page_size: int) -> int:
    """Blocks of one page: 32 bytes of the last key, the tokens, and at least 9 bytes of padding."""
    return (32 + 4 * page_size + 9 + 63) // 64


def rate(fn: Callable[[], object], num_tokens: int) -> Callable[[], float]:
    def measure() -> float:
        start = time.thread_time()
        fn()
        return num_tokens / (time.thread_time() - start) / 1e6

    return measure


def main(quick: bool) -> Table:
    num_tokens = NUM_TOKENS // 16 if quick else NUM_TOKENS
    tokens = bytes(range(256)) * (num_tokens * 4 // 256)
    table = Table(f"page keys, {num_tokens} tokens")
    for page_size in PAGE_SIZES:
        blocks = bytes(num_tokens // page_size * num_blocks(page_size) * 64 - 9)
        samples = interleaved(
            {
                "native": rate(lambda p=page_size: page_keys(tokens, p), num_tokens),
                "hashlib": rate(lambda p=page_size: page_keys_py(tokens, p), num_tokens),
                "limit": rate(lambda b=blocks: hashlib.sha256(b), num_tokens),
            },
            num_rounds=3 if quick else 7,
        )
        native, hashlib_chain, limit = (samples[name].median for name in samples)
        table.add(Row(f"page {page_size} vs hashlib chain", native, hashlib_chain, "Mtok/s", 1.3))
        target = LIMIT_TARGETS[page_size]
        table.add(Row(f"page {page_size} vs SHA-256 itself", native, limit, "Mtok/s", target))
    return table


if __name__ == "__main__":
    args = parse_args(__doc__)
    sys.exit(main(args.quick).finish(args.out, "bench_keys"))
