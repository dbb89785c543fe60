"""Ranks on several hosts: shared memory inside a host, one rank of each host talks to the others.

    ranks of a host --inside--> its leader --between--> the other leaders
    ranks of a host <--answers-- its leader <--the MIN of all--

MIN is associative, so the minimum of the hosts' minima is that of all ranks. A leader hands it on
by a MIN of its own, to which the other ranks add neutral lanes: all three are plain groups. The
leader does this in a thread, so that the network is waited for beside the scheduler, not by it.
"""

import queue
import threading
import time
from collections.abc import Sequence

import numpy as np

from hicache_ext.agreement.group import Group, OneCaller, one_caller
from hicache_ext.agreement.schema import NOT_MINE, Lanes
from hicache_ext.errors import AgreementError

_SLICE_S = 0.05  # how often a waiting leader tells why, and sees that it is to stop


class HierarchicalGroup(OneCaller):
    """One rank of a group that spans hosts; see Group.

    `hosts` are the ranks of each host, the same on every rank. `inside` and `answers` join the
    ranks of this host, in that order (ShmGroups, or LocalGroups for a host of one rank); `between`
    joins the first rank of each host in the order of `hosts`, and is None on the other ranks. The
    group takes the three over, and closes them.

    AgreementError: the groups do not fit `hosts`; errors of the three groups, with the host.
    """

    kind = "hierarchical"

    def __init__(
        self,
        inside: Group,
        answers: Group,
        between: Group | None,
        *,
        hosts: Sequence[Sequence[int]],
        rank: int,
        num_lanes: int,
    ) -> None:
        super().__init__()
        self.rank, self.size = rank, sum(map(len, hosts))
        self._inside_group, self._answers = inside, answers
        _check_hosts(hosts, inside, answers, between, rank)
        host = next(i for i, ranks in enumerate(hosts) if rank in ranks)
        self._here = f"rank {rank} of {self.size}, on host {host} with ranks {list(hosts[host])}"
        self._neutral = np.full(num_lanes, NOT_MINE, dtype=np.int64)
        self._num_uncollected = self._num_inside = 0
        self._relay = None
        if between is not None:
            leaders = [ranks[0] for ranks in hosts]
            self._relay = _Relay(inside, answers, between, self._here, leaders)

    @one_caller
    def issue(self, lanes: Lanes) -> None:
        """See Group."""
        self._check_open()
        self._check_issue(lanes, self._neutral.size, self._num_uncollected)
        if self._relay is not None:
            self._relay.issue(lanes.copy())
        else:
            self._inside_group.issue(lanes)
            self._answers.issue(self._neutral)
            self._num_inside += 1
        self._num_uncollected += 1

    @one_caller
    def ready(self) -> bool:
        """See Group."""
        self._check_open()
        if self._num_uncollected == 0:
            return False
        if self._relay is not None:
            return self._relay.ready()
        waits_inside = self._num_inside == self._num_uncollected
        return (not waits_inside or self._inside_group.ready()) and self._answers.ready()

    @one_caller
    def result(self, deadline_s: float) -> Lanes:
        """See Group. Errors number ranks as the group does in which they are missing."""
        self._check_open()
        if self._num_uncollected == 0:
            raise AgreementError(f"rank {self.rank}: no tick is issued")
        if self._relay is not None:
            lanes = self._relay.result(deadline_s)
        else:
            lanes = self._result_of_leader(deadline_s)
        self._num_uncollected -= 1
        return lanes

    @one_caller
    def note(self, text: str) -> None:
        """See Group. The ranks of this host are told; the other hosts, if this is a leader."""
        self._check_open()
        if self._relay is not None:
            self._relay.note(text)
        else:
            self._inside_group.note(text)

    def _result_of_leader(self, deadline_s: float) -> Lanes:
        # Inside first: a late rank of this host is seen here, and not as a late leader.
        end = time.monotonic() + deadline_s
        try:
            if self._num_inside == self._num_uncollected:
                self._inside_group.result(deadline_s)
                self._num_inside -= 1
            return self._answers.result(max(end - time.monotonic(), 0.0))
        except AgreementError as error:
            raise AgreementError(f"{self._here}: {error}") from error

    @one_caller
    def close(self) -> None:
        """See Group."""
        if self._closed:
            return
        self._closed = True
        if self._relay is not None:
            self._relay.close()
        else:
            self._inside_group.close()
            self._answers.close()


class _Relay:
    """The leader's thread; all three groups are its own from its start to its end."""

    def __init__(
        self,
        inside: Group,
        answers: Group,
        between: Group,
        here: str,
        leaders: Sequence[int],
    ) -> None:
        self._groups = (inside, answers, between)
        self._here, self._between = here, f"between hosts, whose leaders are ranks {list(leaders)}"
        self._late = ""
        self._closing = False
        self._todo: queue.SimpleQueue[Lanes | str | None] = queue.SimpleQueue()
        self._done: queue.SimpleQueue[Lanes | AgreementError] = queue.SimpleQueue()
        self._broken: AgreementError | None = None
        self._thread = threading.Thread(target=self._run, daemon=True, name="hicache-relay")
        self._thread.start()

    def issue(self, lanes: Lanes) -> None:
        self._todo.put(lanes)

    def note(self, text: str) -> None:
        self._todo.put(text)

    def ready(self) -> bool:
        return self._broken is not None or not self._done.empty()

    def result(self, deadline_s: float) -> Lanes:
        if self._broken is None:
            try:
                outcome = self._done.get(timeout=max(deadline_s, 0.0))
            except queue.Empty:
                why = self._late or f"{self._here}: its thread has not come to the tick"
                raise AgreementError(f"{why}; given up after {deadline_s} s") from None
            if not isinstance(outcome, AgreementError):
                return outcome
            self._broken = outcome
        raise AgreementError(str(self._broken)) from self._broken

    def close(self) -> None:
        self._closing = True
        self._todo.put(None)
        self._thread.join()

    def _run(self) -> None:
        inside, answers, between = self._groups
        try:
            while (lanes := self._todo.get()) is not None:
                if isinstance(lanes, str):
                    for group in self._groups:
                        group.note(lanes)
                    continue
                inside.issue(lanes)
                minimum = self._wait(inside, self._here)
                between.issue(minimum)
                minimum = self._wait(between, self._between)
                answers.issue(minimum)
                self._wait(answers, self._here)
                self._done.put(minimum)
        except AgreementError as error:
            self._tell(str(error))
            self._done.put(error)
        except Exception as error:  # nobody else would hear of it: the scheduler waits for us
            lost = AgreementError(f"{self._here}: its thread failed: {error!r}")
            lost.__cause__ = error
            self._done.put(lost)
        finally:
            for group in self._groups:
                group.close()

    def _wait(self, group: Group, where: str) -> Lanes:
        while not self._closing:
            try:
                lanes = group.result(_SLICE_S)
            except AgreementError as error:
                if not group.ready():
                    # Whoever gives up says after how long: it was more than our slice.
                    self._tell(f"{where}: {error}".replace(f" after {_SLICE_S} s", ""))
                    continue
                # It came just now, or is lost for good.
                lanes = self._result_of_ready(group, where)
            self._tell("")
            return lanes
        raise AgreementError(f"{self._here}: the group is closed")

    def _result_of_ready(self, group: Group, where: str) -> Lanes:
        try:
            return group.result(0.0)
        except AgreementError as lost:
            raise AgreementError(f"{where}: {lost}") from lost

    def _tell(self, why: str) -> None:
        """What the other ranks of this host, and the other hosts, read when they wait in vain."""
        if why == self._late:
            return
        self._late = why
        _, answers, between = self._groups
        answers.note(why)
        between.note(why)


def _check_hosts(
    hosts: Sequence[Sequence[int]],
    inside: Group,
    answers: Group,
    between: Group | None,
    rank: int,
) -> None:
    ranks = [r for host in hosts for r in host]
    if sorted(ranks) != list(range(len(ranks))) or rank not in ranks or not all(hosts):
        raise AgreementError(f"hosts={hosts}: want each rank once, among them rank {rank}")
    host_idx, mine = next((i, host) for i, host in enumerate(hosts) if rank in host)
    for name, group in (("inside", inside), ("answers", answers)):
        if (group.rank, group.size) != (mine.index(rank), len(mine)):
            raise AgreementError(
                f"{name} is rank {group.rank} of {group.size}; rank {rank} is "
                f"{mine.index(rank)} of {len(mine)} on its host"
            )
    have = None if between is None else (between.rank, between.size)
    want = (host_idx, len(hosts)) if mine[0] == rank else None
    if have != want:
        raise AgreementError(f"between is (rank, size)={have}; rank {rank} needs {want}")
