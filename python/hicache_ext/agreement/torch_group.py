"""Ranks of any torch.distributed process group with a CPU backend (gloo: ranks on many hosts).

Two habits of gloo shape this file. Its own timeout closes the connections for good, so nothing
here ever lets one expire: operations are asynchronous, get a timeout of a year, and are waited for
in slices with a deadline of our own. And vectors of different lengths abort the process, so the
lengths are compared first, by an operation whose length nobody chooses.
"""

import time
from collections import deque
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist

from hicache_ext.agreement.attendance import Attendance
from hicache_ext.agreement.group import OneCaller, one_caller
from hicache_ext.agreement.schema import NOT_MINE, Lanes
from hicache_ext.errors import AgreementError

_NEVER = timedelta(days=365)
_GRACE_S = 0.2  # after a connection broke, for the other survivors to say that they live


class TorchGroup(OneCaller):
    """One rank of a torch.distributed process group; see Group.

    `process_group`: a ProcessGroup or a bare ProcessGroupGloo; None for the default group. It
    should be the tick's own (dist.new_group): another operation between two ticks would have to
    come at the same place on every rank. All ranks construct the group together; that compares
    `num_lanes` and takes at most `deadline_s`.
    `store`: where ranks that wait in vain say so, to name those that do not; None for the group's
    own.

    AgreementError: the group has no CPU backend, a rank has another number of lanes or does not
    come in time; later, a connection broke. A broken torch group stays broken.
    """

    kind = "torch"

    def __init__(
        self,
        process_group: Any = None,
        *,
        num_lanes: int,
        deadline_s: float = 30.0,
        store: Any = None,
    ) -> None:
        super().__init__()
        if process_group is None and not (dist.is_available() and dist.is_initialized()):
            raise AgreementError("torch.distributed is not initialised")
        default: Any = dist.group.WORLD
        self._group = default if process_group is None else process_group
        self.rank, self.size = self._group.rank(), self._group.size()
        self.num_lanes = num_lanes
        _require_cpu_backend(self._group)
        get_store = getattr(self._group, "get_group_store", lambda: None)
        self._attendance = Attendance(get_store() if store is None else store, self.rank, self.size)
        self._pending: deque[tuple[int, torch.Tensor, Any]] = deque()
        self._issued = 0
        self._compare_num_lanes(deadline_s)

    @one_caller
    def issue(self, lanes: Lanes) -> None:
        """See Group."""
        self._check_open()
        self._check_issue(lanes, self.num_lanes, len(self._pending))
        tensor = torch.from_numpy(lanes.copy())
        try:
            work = self._start_min(tensor)
        except RuntimeError as error:
            raise AgreementError(f"tick {self._issued}: the group is broken: {error}") from error
        self._pending.append((self._issued, tensor, work))
        self._issued += 1

    @one_caller
    def ready(self) -> bool:
        """See Group."""
        self._check_open()
        return bool(self._pending) and self._pending[0][2].is_completed()

    @one_caller
    def result(self, deadline_s: float) -> Lanes:
        """See Group. Ranks are named as far as the store tells who else is waiting."""
        self._check_open()
        if not self._pending:
            raise AgreementError(f"rank {self.rank}: no tick is issued")
        tick, tensor, work = self._pending[0]
        self._wait(work, tick, deadline_s)
        self._pending.popleft()
        return tensor.numpy()

    @one_caller
    def note(self, text: str) -> None:
        """See Group. It goes to the store."""
        self._check_open()
        self._attendance.note(text)

    @one_caller
    def close(self) -> None:
        """See Group. The process group itself is the caller's and stays."""
        self._closed = True

    @one_caller
    def gather(self, values: Sequence[int], deadline_s: float) -> list[list[int]]:
        """What every rank says, by rank: as many int64 each. No tick may be in flight."""
        self._check_open()
        return self._gather(values, deadline_s)

    def _gather(self, values: Sequence[int], deadline_s: float) -> list[list[int]]:
        # A MIN as well: of a row for each rank, neutral but for its own.
        rows = torch.full((self.size, len(values)), NOT_MINE, dtype=torch.int64)
        rows[self.rank] = torch.tensor(list(values), dtype=torch.int64)
        self._wait(self._start_min(rows), -1, deadline_s)
        said: list[list[int]] = rows.tolist()
        return said

    def _start_min(self, tensor: torch.Tensor) -> Any:
        options: Any = dist.AllreduceOptions()
        options.reduceOp, options.timeout = dist.ReduceOp.MIN, _NEVER
        return self._group.allreduce([tensor], options)

    def _compare_num_lanes(self, deadline_s: float) -> None:
        counts = [said[0] for said in self._gather([self.num_lanes], deadline_s)]
        if len(set(counts)) > 1:
            raise AgreementError(f"ranks have different numbers of lanes: {counts}, by rank")

    def _wait(self, work: Any, tick: int, deadline_s: float) -> None:
        """Returns when `work` is done; never through torch's own timeout."""

        def step(max_s: float) -> bool:
            if _done_within(work, max_s):
                return True
            if work.is_completed():
                self._raise_if_broken(work, tick)
                return True
            return False

        self._attendance.wait(step, tick, self._issued, deadline_s)

    def _raise_if_broken(self, work: Any, tick: int) -> None:
        try:
            work.wait()
        except RuntimeError as error:
            self._attendance.here(tick, self._issued)
            time.sleep(_GRACE_S if self.size > 2 else 0)
            who, issued = self._attendance.roll_call(tick, self._issued)
            raise AgreementError(
                f"tick {tick}, rank {self.rank} of {self.size}: {who} dead or disconnected: "
                f"{str(error).splitlines()[0]}{issued}"
            ) from error


def _done_within(work: Any, max_s: float) -> bool:
    """False: not yet, or failed. A timeout of 0 would mean for ever."""
    try:
        work.wait(timedelta(seconds=max(max_s, 0.001)))
    except RuntimeError:
        return False
    return True


def _require_cpu_backend(group: Any) -> None:
    if isinstance(group, dist.ProcessGroupGloo):  # a bare backend
        return
    try:
        group._get_backend(torch.device("cpu"))
    except RuntimeError as error:
        raise AgreementError(
            "the process group has no CPU backend: make one with gloo, or use NcclGroup"
        ) from error
