"""What the codes of Mooncake mean to a cache; seen with 0.3.13.post1, see docs/mooncake.md."""

from collections.abc import Iterable
from enum import IntEnum


class Code(IntEnum):
    """Results below 0 of the engine's calls. A code that is not named here is an engine error."""

    NO_ANSWER = -1  # of a question: nobody knows
    NO_SPACE = -200  # nothing evictable, or no storage node has mounted yet
    BAD_SIZE = -600  # of a get: the object is larger than the buffer
    NOT_READY = -703  # its put has not ended
    NOT_FOUND = -704
    EXISTS = -705
    LEASED = -706  # read a moment ago; an eviction or remove has to wait
    UNREACHABLE = -800  # its storage node does not answer, and the master does not know that yet
    NO_MASTER = -900


OWN_STATS = (
    "num_unreachable_pages",  # their storage node or the master did not answer
    "num_engine_errors",  # a code that should not occur
    "num_under_replicated_pages",  # stored in fewer copies than asked for
)
# Where a page that was not moved counts; what is just absent is a miss and no more.
_COUNTERS: dict[int, str] = {
    Code.NO_SPACE: "num_refused_pages",
    Code.BAD_SIZE: "num_corrupt_pages",
    Code.UNREACHABLE: "num_unreachable_pages",
    Code.NO_MASTER: "num_unreachable_pages",
}
_ABSENT = {Code.NOT_READY, Code.NOT_FOUND, Code.LEASED}


def counter_of(code: int) -> str | None:
    """The counter of stats() for a page with this code, None for one that is just not there."""
    return None if code in _ABSENT else _COUNTERS.get(code, "num_engine_errors")


def has_no_master(codes: Iterable[int]) -> bool:
    """Whether nothing was answered, not even by the master."""
    return all(code in (Code.NO_ANSWER, Code.NO_MASTER) for code in codes)


def is_lossy(codes: Iterable[int]) -> bool:
    """Whether a part of the cluster did not answer; that has cost a second or more."""
    return any(code in (Code.NO_ANSWER, Code.NO_MASTER, Code.UNREACHABLE) for code in codes)
