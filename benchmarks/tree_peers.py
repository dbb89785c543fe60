"""The figures that bench_tree is held against: SGLang 0.5.23 on the same workload, CPU time.

Measured in November 2026 on a two-core EPYC with SHA-NI, Python 3.11, window 1024, capacity 4 M
tokens. Medians of a call are from a busy run; totals are of the quieter one, the lower of the two,
since they are bounds for us. They were not taken in the same run as ours, and no peer is installed
here to take them again: a slower machine counts against us.
"""

from __future__ import annotations

from typing import NamedTuple

from benchmarks.tree_chat import Kind

PEER_REQUESTS = 10_240  # what the totals are of


class Peer(NamedTuple):
    """One tree with its Rust core on the chat workload, and what its Python core needs for it."""

    medians_us: dict[str, float]
    total_s: float
    python_total_s: float


def _peer(medians_us: tuple[int, ...], total_s: float, python_us_per_request: int) -> Peer:
    ops = ("match", "indices", "lock", "insert", "evict", "unlock")
    medians = dict(zip(ops, map(float, medians_us), strict=True))
    return Peer(medians, total_s, python_us_per_request * PEER_REQUESTS / 1e6)


CHATS = {
    (Kind.FULL, 16): _peer((54, 27, 18, 90, 217, 14), 2.4, 908),
    (Kind.FULL, 64): _peer((54, 27, 19, 90, 173, 15), 2.2, 1004),
    (Kind.FULL_SWA, 16): _peer((68, 32, 27, 174, 538, 21), 6.9, 1841),
    (Kind.FULL_SWA, 64): _peer((79, 36, 33, 203, 656, 25), 6.4, 1915),
}

# A cached prompt of 128k tokens at page 16, by nodes; over 2048 nodes: at page 1.
LONG_PROMPT_US = {
    1: {"match": 272.0, "lock": 32.0, "insert": 433.0},
    32: {"match": 306.0, "lock": 34.0, "insert": 468.0},
    2048: {"match": 1851.0, "lock": 253.0, "insert": 5331.0},
}

# SGLang's slot allocator: 1024 tokens of a pool of 4 M, at page 16.
LEDGER_US = {"alloc": 100.0, "free": 1400.0}

HASH_MTOKENS_PER_S = 173.0  # its native page hash at page 64
