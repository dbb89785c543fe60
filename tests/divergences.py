"""Ways in which one rank parts from the others, and what the errors must say.

Programs of one rank, run in threads and in processes. The last rank is the odd one. Each program
ends at the tick whose lanes are the first to differ.
"""

from __future__ import annotations

import re
import stat
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ranks import PAGE_SIZE, Rank

from hicache_ext.errors import AgreementError
from hicache_ext.tier import Tier

A = list(range(100, 100 + 8 * PAGE_SIZE))
B = [*A[: 4 * PAGE_SIZE + 1], *range(500, 500 + 4 * PAGE_SIZE)]
C = list(range(900, 900 + 6 * PAGE_SIZE))


@dataclass
class Case:
    """What the odd rank does, and what the others do, between two ticks."""

    odd: Callable[[Rank], Any]
    usual: Callable[[Rank], Any]
    lane: str
    """`digest` where the trees differ, `calls` where they do not."""
    odd_did: str
    """The first different operation on each side; regular expressions."""
    usual_did: str


def nothing(rank: Rank) -> None:
    pass


def match(*prompts: list[int]) -> Callable[[Rank], Any]:
    return lambda rank: [rank.cache.match(tokens) for tokens in prompts]


def prefetch(*prompts: list[int]) -> Callable[[Rank], Any]:
    return lambda rank: [rank.cache.prefetch(tokens) for tokens in prompts]


def alloc(num_full: int) -> Callable[[Rank], Any]:
    return lambda rank: rank.cache.alloc({"full": num_full, "swa": 1})


def forget_a_free(rank: Rank) -> None:
    rank.cache.alloc({"full": 2})


def alloc_and_free(rank: Rank) -> None:
    rank.cache.free(rank.cache.alloc({"full": 2}))


def evict(num_pages: int) -> Callable[[Rank], Any]:
    return lambda rank: rank.cache.evict(Tier.DEVICE, {"full": num_pages})


def use_in_another_order(rank: Rank) -> None:
    """A bug of one rank's tree: nobody called anything else, and clocks are wrong."""
    rank.cache.tree._core.match_prefix(A, b"")  # below the log


def say_another_op(rank: Rank) -> None:
    """A bug of one rank's engine: its op has an id that no other rank knows."""
    prefetch(C)(rank)
    rank.cache._engine._ops._pending[-1].op_id += 100


MATCH, TICK = r"match tokens=\d+ \(hash \w+\) below 0 -> node \d+.*", r"tick \d+"
CASES = {
    "misses a call": Case(nothing, match(A), "digest", TICK, MATCH),
    "makes one more": Case(match(A), nothing, "digest", MATCH, TICK),
    "other tokens": Case(match(A), match(B), "digest", MATCH, MATCH),
    "same length, same result, other tokens": Case(
        match([7] * 8), match([8] * 8), "calls", MATCH, MATCH
    ),
    "another order": Case(match(A, B), match(B, A), "digest", MATCH, MATCH),
    "prefetches in another order": Case(
        prefetch(A + C, C + A), prefetch(C + A, A + C), "digest", MATCH, MATCH
    ),
    "another number": Case(
        alloc(2), alloc(1), "calls", r"alloc pages=\(2, 1\) .*", r"alloc pages=\(1, 1\) .*"
    ),
    "misses an alloc": Case(nothing, alloc(1), "calls", TICK, r"alloc pages=\(1, 1\) .*"),
    "misses a free": Case(forget_a_free, alloc_and_free, "calls", TICK, r"free pages=\(2, 0\)"),
    "evicts more": Case(
        evict(3), evict(2), "calls", r"evict pages=\(3, 0\).*", r"evict pages=\(2, 0\).*"
    ),
    "an op more": Case(prefetch(C), nothing, "digest", MATCH, TICK),
}


def usual_traffic(rank: Rank) -> None:
    """Some requests, the same on every rank."""
    for tokens in (A, B):
        held = rank.cache.match(tokens)
        done = len(held.pages["full"])
        num_new = len(tokens) // PAGE_SIZE - done
        new = rank.cache.alloc({"full": num_new, "swa": num_new})
        assert new is not None
        pages = {name: held.pages[name] + ids for name, ids in new.items()}
        rank.cache.insert(held, tokens[: len(tokens) // PAGE_SIZE * PAGE_SIZE], pages)
        rank.cache.tick()
        rank.cache.release(held)
    rank.cache.drain()


def part(rank: Rank, name: str) -> tuple[int, str]:
    """After how many ticks the error came, and its text."""
    case = CASES[name]
    usual_traffic(rank)
    is_odd = rank.rank == rank.cache._engine._group.size - 1
    (case.odd if is_odd else case.usual)(rank)
    for num_ticks in range(1, 5):
        try:
            rank.cache.tick()
        except AgreementError as error:
            return num_ticks, str(error)
    return 0, "the ranks agree"


def usual_of(size):
    return "rank 0" if size == 2 else f"ranks {', '.join(str(rank) for rank in range(size - 1))}"


def check_by_rank(text, size, odd, usual):
    """The parts of the odd rank and of the others, in whichever order."""
    sides = f"rank {size - 1}: {odd}", f"{usual_of(size)}: {usual}"
    pattern = "|".join(f"{a}; {b}" for a, b in (sides, sides[::-1]))
    assert re.search(f"^.*: ({pattern})$", text, re.M), f"{text}\n{pattern}"


def dump_of(text):
    return Path(re.search(r" are in (.*)$", text)[1])


def check(name, depth, size, said):
    case = CASES[name]
    for rank, (num_ticks, text) in enumerate(said):
        assert num_ticks == 1 + depth, text
        first, by_rank, operation, dump = text.splitlines()
        assert f"({case.lane}): this rank has " in first
        assert by_rank.startswith(f"{case.lane} by rank: ")
        check_by_rank(by_rank, size, r"\d+", r"\d+")
        assert operation.startswith("first different operation (number ")
        check_by_rank(operation, size, case.odd_did, case.usual_did)
        path = Path(
            re.search(rf"^the last operations of this rank \({rank}\) are in (.*)", dump)[1]
        )
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        (marked,) = [line for line in path.read_text().splitlines() if line.startswith(">")]
        assert re.search(case.odd_did if rank == size - 1 else case.usual_did, marked)
