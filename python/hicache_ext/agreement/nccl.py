"""The ranks of an NCCL communicator: pack, MIN and unpack on a stream, outcome in pinned memory."""

from collections.abc import Callable
from typing import Any

import numpy as np

from hicache_ext import _C
from hicache_ext.agreement.attendance import Attendance
from hicache_ext.agreement.deadline import Countdown
from hicache_ext.agreement.group import OneCaller, one_caller
from hicache_ext.agreement.nccl_place import Place, Reduction
from hicache_ext.agreement.nccl_start import comm_over_store, open_library, require_equal
from hicache_ext.agreement.schema import AgreedSlot, LaneError, Lanes, TickSchema
from hicache_ext.errors import AgreementError

HEADER_DTYPE = np.dtype(
    [
        ("epoch", np.int64),
        ("digest", np.int64),
        ("num_ops", np.int64),
        ("calls", np.int64),
        ("num_waiting", np.int64),
        ("asking_slot", np.int64),  # -1: nobody asks
        ("free_pages", np.int64, 2 * _C.MAX_LANE_POOLS),  # device, host; num_pools of each
    ]
)
"""The header that issue_records() reads: lanes.h, LaneHeader."""

SLOT_DTYPE = np.dtype(
    [
        ("op_id", np.int64),  # -1: the slot is unused
        ("step", np.int64),
        ("ready", np.int64),
        ("failed", np.int64),
        ("num_pages", np.int64),
        ("short", np.int64, _C.MAX_LANE_POOLS),
        ("hits", np.int64, _C.MAX_LANE_POOLS),
    ]
)
"""One slot record that issue_records() reads: lanes.h, SlotRecord."""


class NcclGroup(OneCaller):
    """One rank of an NCCL communicator; see Group.

    `comm` (an ncclComm_t as an integer, e.g. ProcessGroupNCCL._comm_ptr()) and `stream` (a
    cudaStream_t as an integer; not the one of the model, and not the default one, whose order
    would stall the tick) are borrowed and must outlive the group. `library` must be the libnccl
    that made `comm`; None finds the one that torch has loaded. `store`, a torch.distributed store:
    where ranks that wait in vain say so, to name those that do not.

    All ranks construct the group together, in at most `deadline_s`: they compare their schemas and
    `reduction`, and with Reduction.AUTO time some 30 ticks of each kind; the attributes `reduction`
    and `reduction_why` say what came of it. (A communicator that blocks may do so for longer.)

    NCCL wants the operations of a device in one order on every rank: use the group from the thread
    that launches the model's collectives. AgreementError: ranks differ or do not come. CudaError:
    the package was built without CUDA, there is no libnccl or no GPU, or a call fails. Without a
    store nobody can tell which rank of several is late; AgreementError says how many it can be.
    """

    kind = "nccl"

    def __init__(
        self,
        schema: TickSchema,
        comm: int,
        *,
        stream: int,
        device: int = 0,
        library: str | None = None,
        reduction: Reduction = Reduction.AUTO,
        deadline_s: float = 30.0,
        store: Any = None,
    ) -> None:
        self._start(
            schema,
            Place(open_library(library), comm, device, stream),
            reduction,
            Countdown(deadline_s),
            store,
        )

    @classmethod
    def from_store(
        cls,
        schema: TickSchema,
        store: Any,
        rank: int,
        size: int,
        *,
        stream: int,
        device: int = 0,
        library: str | None = None,
        reduction: Reduction = Reduction.AUTO,
        deadline_s: float = 30.0,
    ) -> "NcclGroup":
        """A group with a communicator of its own, of all `size` ranks that meet over `store`.

        `store`: a torch.distributed store, or anything with its add, set, get, check and wait. One
        deadline holds for all: the ranks' coming, NCCL's connections and the start of the group.
        close() ends the communicator. AgreementError names the ranks that did not come.
        """
        clock, opened = Countdown(deadline_s), open_library(library)
        comm = comm_over_store(opened, store, rank, size, device, clock)
        group = cls.__new__(cls)
        try:
            place = Place(opened, comm.address, device, stream)
            group._start(schema, place, reduction, clock, store)
        except BaseException:
            comm.abort()
            raise
        group._owned = comm
        return group

    def _start(
        self,
        schema: TickSchema,
        place: "Place",
        reduction: Reduction,
        clock: Countdown,
        store: Any,
    ) -> None:
        super().__init__()
        self._owned: _C.NcclComm | None = None
        self._schema = schema
        rows = place.gather([schema.num_lanes, schema.hash, reduction.value], clock)
        lanes, hashes, reductions = zip(*rows, strict=True)
        require_equal("numbers of lanes", lanes)
        require_equal("schemas", [f"{value:#x}" for value in hashes])
        require_equal("reductions", [Reduction(value).name for value in reductions])
        self.reduction_why = f"{reduction.name} was asked for"
        if reduction is Reduction.AUTO:
            reduction, self.reduction_why = place.choose(schema, len(rows), clock)
        place.warm(schema, reduction, clock)
        self.reduction = reduction
        native = place.make(schema, reduction)
        self.rank, self.size = native.rank, native.size
        self._native: _C.NcclGroup | None = native
        self._attendance = Attendance(store, self.rank, self.size)

    @one_caller
    def issue(self, lanes: Lanes) -> None:
        """See Group. CudaError while the stream is captured: a graph would keep these lanes."""
        self._open().issue(lanes)

    @one_caller
    def issue_records(self, header: int, slots: int, endpoints: int) -> None:
        """Start a tick from device (or mapped pinned) memory, packed by a kernel on the stream.

        `header` is the address of one HEADER_DTYPE, `slots` of [num_slots] SLOT_DTYPE, `endpoints`
        of uint8[num_endpoint_lanes], not read while nobody asks. They are read when the stream gets
        there and must stay until result() returns. Values are not range checked; keep them in
        [0, 2^62).

        While the stream is captured nothing starts: the tick becomes a part of the graph, and each
        replay() starts one. Capture one tick in a graph, and replay none after close().
        """
        self._open().issue_records(header, slots, endpoints)

    @one_caller
    def replay(self, launch: Callable[[], object]) -> None:
        """Start the tick that a graph has captured: `launch` launches it, e.g. CUDAGraph.replay.

        The records are read as they are when the graph gets there. Refused, before the launch,
        where issue() would be. If `launch` raises, no tick has started.
        """
        self._open().replay(launch)

    @one_caller
    def ready(self) -> bool:
        """See Group."""
        return self._open().ready()

    @one_caller
    def result(self, deadline_s: float) -> Lanes:
        """See Group."""
        lanes, _, _ = self._collect(deadline_s)
        return lanes

    @one_caller
    def result_slots(self, deadline_s: float, epoch: int) -> dict[int, AgreedSlot]:
        """The slots of unpack(), but verified and unpacked by the kernel. `epoch`: for errors."""
        _, (lane, mine, low, high), slots = self._collect(deadline_s)
        if lane >= 0:
            raise LaneError.of(self._schema, lane, epoch, mine, low, high)
        return slots

    def _collect(
        self, deadline_s: float
    ) -> tuple[Lanes, tuple[int, int, int, int], dict[int, AgreedSlot]]:
        native = self._open()
        if native.num_issued == native.num_collected:
            raise AgreementError(f"rank {self.rank}: no tick is issued")
        if not native.wait(0.0):  # which also tells of a lost peer
            tick = native.num_collected
            self._attendance.wait(native.wait, tick, native.num_issued, deadline_s)
        return native.collect(AgreedSlot)

    @one_caller
    def note(self, text: str) -> None:
        """See Group. It goes to the store, if there is one."""
        self._check_open()
        self._attendance.note(text)

    @one_caller
    def close(self) -> None:
        """See Group. A communicator and a stream that were handed in stay.

        One of from_store() is destroyed, or aborted if a tick is missing: that may never end.
        """
        if self._closed:
            return
        self._closed = True
        native, self._native = self._native, None
        is_done = native is not None and native.num_issued == native.num_collected
        if self._owned is not None:
            # First, since it ends the kernels that still use the group's memory.
            (self._owned.destroy if is_done else self._owned.abort)()
        del native

    def _open(self) -> _C.NcclGroup:
        self._check_open()
        assert self._native is not None
        return self._native
