"""What a tick needs of a group of ranks: one MIN over int64 lanes, started and collected."""

from typing import Protocol, runtime_checkable

from hicache_ext.agreement.schema import Lanes

DEPTH = 2
"""Ticks that may be in flight: the one just issued, and the one before it, not yet collected."""


@runtime_checkable
class Group(Protocol):
    """Ranks that reduce one vector per tick, in the same order on all of them.

    Used by one thread of each rank. Results come in the order of issue, and at most DEPTH ticks
    may be uncollected: one more is an AgreementError, as is any use after close().
    """

    rank: int
    size: int
    kind: str

    def issue(self, lanes: Lanes) -> None:
        """Start the MIN of this rank's next tick; does not wait. `lanes` may be reused at once.

        AgreementError when the number of lanes is not the group's.
        """

    def ready(self) -> bool:
        """Whether result() of the oldest uncollected tick would return or raise at once."""

    def result(self, deadline_s: float) -> Lanes:
        """The MIN of the oldest uncollected tick: a new int64[num_lanes], the same on all ranks.

        Waits at most `deadline_s`, then AgreementError names the ranks that are missing; the
        tick stays uncollected, and a rank that was only late can still be waited for. A rank
        that died or closed is an AgreementError as soon as that is seen.
        """

    def close(self) -> None:
        """Leave the group and release what it holds. Calling it again does nothing."""
