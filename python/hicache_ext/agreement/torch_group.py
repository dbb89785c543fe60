"""Ranks of any torch.distributed process group with a CPU backend (gloo: ranks on many hosts).

Two habits of gloo shape this file. Its own timeout closes the connections for good, so nothing
here ever lets one expire: operations are asynchronous and are waited for in slices with a deadline
of our own. And vectors of different lengths abort the process, so the lengths are compared first,
by an operation whose length nobody chooses.
"""

import time
from collections import deque
from datetime import timedelta
from typing import Any

import numpy as np
import torch
import torch.distributed as dist

from hicache_ext.agreement.attendance import Attendance
from hicache_ext.agreement.group import DEPTH
from hicache_ext.agreement.schema import Lanes
from hicache_ext.errors import AgreementError

_SLICE_S = 0.05  # how long Ctrl-C waits
_GRACE_S = 0.2  # after a connection broke, for the other survivors to say that they live


class TorchGroup:
    """One rank of a torch.distributed process group; see Group.

    `process_group`: None for the default group. It should be the tick's own (dist.new_group), with
    a timeout far above any deadline used here, since an operation that torch itself times out
    breaks the group. All ranks construct the group together; that compares `num_lanes` and takes
    at most `deadline_s`. `store`: where ranks that wait in vain say so, to name those that do not;
    None for the group's own.

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
        if not dist.is_available() or not dist.is_initialized():
            raise AgreementError("torch.distributed is not initialised")
        self._group = dist.group.WORLD if process_group is None else process_group
        self.rank, self.size = dist.get_rank(self._group), dist.get_world_size(self._group)
        self.num_lanes = num_lanes
        _require_cpu_backend(self._group)
        get_store = getattr(self._group, "get_group_store", lambda: None)
        self._attendance = Attendance(get_store() if store is None else store, self.rank, self.size)
        self._pending: deque[tuple[int, torch.Tensor, Any]] = deque()
        self._issued = 0
        self._closed = False
        self._compare_num_lanes(deadline_s)

    def issue(self, lanes: Lanes) -> None:
        """See Group."""
        self._check_open()
        if lanes.shape != (self.num_lanes,) or lanes.dtype != np.int64:
            have = f"{lanes.dtype}{list(lanes.shape)}"
            raise AgreementError(f"rank {self.rank} issued {have}, not int64[{self.num_lanes}]")
        if len(self._pending) == DEPTH:
            raise AgreementError(f"rank {self.rank}: {DEPTH} ticks are uncollected already")
        tensor = torch.from_numpy(lanes.copy())
        try:
            work = dist.all_reduce(tensor, dist.ReduceOp.MIN, group=self._group, async_op=True)
        except RuntimeError as error:
            raise AgreementError(f"tick {self._issued}: the group is broken: {error}") from error
        self._pending.append((self._issued, tensor, work))
        self._issued += 1

    def ready(self) -> bool:
        """See Group."""
        self._check_open()
        return bool(self._pending) and self._pending[0][2].is_completed()

    def result(self, deadline_s: float) -> Lanes:
        """See Group. Ranks are named as far as the store tells who else is waiting."""
        self._check_open()
        if not self._pending:
            raise AgreementError(f"rank {self.rank}: no tick is issued")
        tick, tensor, work = self._pending[0]
        self._wait(work, tick, deadline_s)
        self._pending.popleft()
        return tensor.numpy()

    def close(self) -> None:
        """See Group. The process group itself is the caller's and stays."""
        self._closed = True

    def _check_open(self) -> None:
        if self._closed:
            raise AgreementError(f"rank {self.rank}: the group is closed")

    def _compare_num_lanes(self, deadline_s: float) -> None:
        mine = torch.tensor([self.num_lanes])
        everyone = [torch.zeros_like(mine) for _ in range(self.size)]
        work = dist.all_gather(everyone, mine, group=self._group, async_op=True)
        self._wait(work, -1, deadline_s)
        counts = [int(count) for count in everyone]
        if len(set(counts)) > 1:
            raise AgreementError(f"ranks have different numbers of lanes: {counts}, by rank")

    def _wait(self, work: Any, tick: int, deadline_s: float) -> None:
        """Returns when `work` is done; never through torch's own timeout."""
        start = time.monotonic()
        while not _done_within(work, min(_SLICE_S, start + deadline_s - time.monotonic())):
            if work.is_completed():
                self._raise_if_broken(work, tick)
                return
            waited_s = time.monotonic() - start
            # Ranks that wait for the same tick pass this point within half a deadline of each
            # other unless they are late themselves.
            if waited_s >= deadline_s / 2:
                self._attendance.here(tick)
            if waited_s >= deadline_s:
                late = self._attendance.describe_missing(tick)
                what = "its start" if tick < 0 else f"tick {tick}"
                raise AgreementError(
                    f"{what}, rank {self.rank} of {self.size}: {late} late after {deadline_s} s"
                )

    def _raise_if_broken(self, work: Any, tick: int) -> None:
        try:
            work.wait()
        except RuntimeError as error:
            self._attendance.here(tick)
            time.sleep(_GRACE_S if self.size > 2 else 0)
            lost = self._attendance.describe_missing(tick)
            raise AgreementError(
                f"tick {tick}, rank {self.rank} of {self.size}: {lost} dead or disconnected: "
                f"{str(error).splitlines()[0]}"
            ) from error


def _done_within(work: Any, max_s: float) -> bool:
    """False: not yet, or failed. A timeout of 0 would mean for ever."""
    try:
        work.wait(timedelta(seconds=max(max_s, 0.001)))
    except RuntimeError:
        return False
    return True


def _require_cpu_backend(group: Any) -> None:
    try:
        group._get_backend(torch.device("cpu"))
    except RuntimeError as error:
        raise AgreementError(
            "the process group has no CPU backend: make one with gloo, or use NcclGroup"
        ) from error
