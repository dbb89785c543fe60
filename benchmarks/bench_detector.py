"""What the divergence detector costs: the tree's calls of a scheduler step with it and without.

A step matches, locks and unlocks 32 prompts of 1024 tokens (512 of them shared), packed as HiCache
hands them to the tree, and asks for the digest and the hash of the calls, as one tick does. Figures
are microseconds per call of the tree, of CPU time.
"""

import sys
import time
from array import array
from collections.abc import Callable

from benchmarks.harness import Bound, Row, Table, interleaved, parse_args
from hicache_ext.keys import page_keys, token_hash
from hicache_ext.oplog import OpLog
from hicache_ext.tree import Full, RadixTree, Swa, kinds

PAGE_SIZE = 16
NUM_TOKENS = 1024
NUM_PROMPTS = 32
CALLS_PER_PROMPT = 5


class NoDetector:
    """In place of a tree's log and digest; the hash of tokens is one, too."""

    def add(self, *record: object) -> None:
        pass

    changed = opened = closed = removed = add

    def value(self, state: object) -> int:
        return 0


def prompts() -> list[bytes]:
    shared = list(range(NUM_TOKENS // 2))
    own = [range(n * NUM_TOKENS, n * NUM_TOKENS + NUM_TOKENS // 2) for n in range(NUM_PROMPTS)]
    return [array("I", [*shared, *tail]).tobytes() for tail in own]


def grown_tree() -> RadixTree:
    tree = RadixTree(PAGE_SIZE, (Full(), Swa(256)), page_keys=page_keys, token_hash=token_hash)
    num_pages = NUM_TOKENS // PAGE_SIZE
    for n, tokens in enumerate(prompts()):
        ids = range(n * num_pages, (n + 1) * num_pages)
        tree.insert(
            tokens, {"full": ids, "swa": [-1] * (num_pages // 2) + [*ids[num_pages // 2 :]]}
        )
    return tree


def step_us(tree: RadixTree, num_steps: int) -> Callable[[], float]:
    """A measure: microseconds per call of the tree."""
    asked = prompts()

    def measure() -> float:
        start = time.thread_time()
        for _ in range(num_steps):
            for tokens in asked:
                found = tree.match_prefix(tokens)
                held = [tree.lock(found.node) for _ in range(2)]
                for receipt in held:
                    tree.unlock(receipt)
            _ = tree.digest, tree.log.hash
        num_calls = num_steps * len(asked) * CALLS_PER_PROMPT
        return (time.thread_time() - start) / num_calls * 1e6

    return measure


def record_us(num_records: int) -> Callable[[], float]:
    log = OpLog()

    def measure() -> float:
        start = time.thread_time()
        for _ in range(num_records):
            log.add(kinds.MATCH, NUM_TOKENS, 1 << 60, 0, 17, 17, 0, 17)
        return (time.thread_time() - start) / num_records * 1e6

    return measure


def main(quick: bool) -> Table:
    num_steps = 2 if quick else 20
    watched, bare = grown_tree(), grown_tree()
    bare._state.log = bare._state.digest = NoDetector()  # type: ignore[assignment]
    bare._state.token_hash = lambda tokens: 0
    samples = interleaved(
        {
            "with": step_us(watched, num_steps),
            "without": step_us(bare, num_steps),
            "record": record_us(1000 * num_steps),
        },
        num_rounds=3 if quick else 15,
    )
    with_it, without, record = (samples[name].median for name in samples)
    table = Table("divergence detector: microseconds per call of the tree")
    table.add(
        Row("a call with log and digest, without", with_it, without, "us", 1.5, Bound.AT_MOST)
    )
    table.add(Row("one record of the log, of a call", record, without, "us", 0.15, Bound.AT_MOST))
    return table


if __name__ == "__main__":
    args = parse_args(__doc__)
    sys.exit(main(args.quick).finish(args.out, "bench_detector"))
