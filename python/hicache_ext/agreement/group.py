"""What a tick needs of a group of ranks: one MIN over int64 lanes, started and collected."""

import threading
from collections.abc import Callable, Iterable
from functools import wraps
from typing import Any, Protocol, TypeVar, cast, runtime_checkable

import numpy as np

from hicache_ext.agreement.schema import Lanes
from hicache_ext.errors import AgreementError

DEPTH = 2
"""Ticks that may be in flight: the one just issued, and the one before it, not yet collected."""


@runtime_checkable
class Group(Protocol):
    """Ranks that reduce one vector per tick, in the same order on all of them.

    Used by one thread of each rank at a time: a second one that comes while the first is inside is
    an AgreementError. Results come in the order of issue, and at most DEPTH ticks may be
    uncollected: one more is an AgreementError, as is any use after close().
    """

    kind: str
    why: str
    """Why make_group() took this kind; empty for a group that was made directly."""

    @property
    def rank(self) -> int: ...

    @property
    def size(self) -> int: ...

    def issue(self, lanes: Lanes) -> None:
        """Start the MIN of this rank's next tick; does not wait. `lanes` may be reused at once.

        AgreementError when the number of lanes is not the group's.
        """

    def ready(self) -> bool:
        """Whether result() of the oldest uncollected tick would return or raise at once."""

    def result(self, deadline_s: float) -> Lanes:
        """The MIN of the oldest uncollected tick: a new int64[num_lanes], the same on all ranks.

        Waits at most `deadline_s`, then AgreementError names the ranks that are missing and how
        many ticks each rank has issued, as far as this rank can know; the tick stays uncollected,
        and a rank that was only late can still be waited for. A rank that died or closed is an
        AgreementError as soon as that is seen.
        """

    def note(self, text: str) -> None:
        """What other ranks are told when they wait for this one in vain; "" takes it back.

        As far as the kind of group can: some 240 bytes in shared memory, nothing over NCCL.
        """

    def close(self) -> None:
        """Leave the group and release what it holds. Calling it again does nothing."""


class OneCaller:
    """Base of a group in Python whose methods are `one_caller`s."""

    rank: int
    size: int
    why = ""

    def __init__(self) -> None:
        self._inside = threading.Lock()
        self._closed = False

    def note(self, text: str) -> None:
        """See Group. This kind cannot."""

    def _check_open(self) -> None:
        if self._closed:
            raise AgreementError(f"rank {self.rank}: the group is closed")

    def _check_issue(self, lanes: Lanes, num_lanes: int, num_uncollected: int) -> None:
        """What issue() refuses; the native groups check the same by themselves."""
        if lanes.shape != (num_lanes,) or lanes.dtype != np.int64:
            have = f"{lanes.dtype}{list(lanes.shape)}"
            raise AgreementError(f"rank {self.rank} issued {have}, not int64[{num_lanes}]")
        if num_uncollected == DEPTH:
            raise AgreementError(f"rank {self.rank}: {DEPTH} ticks are uncollected already")


_Method = TypeVar("_Method", bound=Callable[..., Any])


def one_caller(method: _Method) -> _Method:
    """A method that refuses a second thread while another one is inside the group.

    Waiting for its turn would not help: the two ticks could come in another order on another rank.
    """

    @wraps(method)
    def guarded(self: OneCaller, *args: Any) -> Any:
        if not self._inside.acquire(blocking=False):
            raise AgreementError(
                f"rank {self.rank}: {method.__name__}() in thread {threading.get_native_id()} "
                "while another thread is inside the group: ticks are of one thread"
            )
        try:
            return method(self, *args)
        finally:
            self._inside.release()

    return cast(_Method, guarded)


def issued_by_rank(counts: Iterable[Any]) -> str:
    """The end of an error that a rank is missing: the last epoch of each."""
    return f"; ticks issued by each rank: [{', '.join(map(str, counts))}]"
