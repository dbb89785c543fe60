"""The ranks of an NCCL communicator: pack, MIN and unpack on a stream, outcome in pinned memory."""

import importlib.util
from pathlib import Path

import numpy as np

from hicache_ext import _C
from hicache_ext.agreement.group import OneCaller, one_caller
from hicache_ext.agreement.schema import AgreedSlot, LaneError, Lanes, TickSchema
from hicache_ext.errors import CudaError

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


def open_library(path: str | None = None) -> _C.NcclLibrary:
    """libnccl, from `path`, or the one that is loaded (by torch), installed, or in its wheel.

    CudaError when there is none.
    """
    if path is not None:
        return _C.NcclLibrary(path)
    try:
        return _C.NcclLibrary()
    except CudaError:
        in_wheel = _wheel_library()
        if in_wheel is None:
            raise
        return _C.NcclLibrary(str(in_wheel))


def _wheel_library() -> Path | None:
    try:
        spec = importlib.util.find_spec("nvidia.nccl")
    except ModuleNotFoundError:
        return None
    folders = [] if spec is None else spec.submodule_search_locations or []
    found = [Path(folder) / "lib/libnccl.so.2" for folder in folders]
    return next((library for library in found if library.exists()), None)


class NcclGroup(OneCaller):
    """One rank of an NCCL communicator; see Group.

    `comm` (an ncclComm_t as an integer, e.g. ProcessGroupNCCL._comm_ptr()) and `stream` (a
    cudaStream_t as an integer; not the one of the model, and not the default one, whose order
    would stall the tick) are borrowed and must outlive the group. `library` must be the libnccl
    that made `comm`; None finds the one that torch has loaded.

    NCCL wants the operations of a device in one order on every rank: use the group from the thread
    that launches the model's collectives. CudaError: the package was built without CUDA, there is
    no libnccl or no GPU, or a call fails. NCCL cannot tell which rank is late; AgreementError says
    how many it can be.
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
    ) -> None:
        super().__init__()
        if not _C.with_cuda:
            raise CudaError("hicache_ext was built without CUDA: NcclGroup needs it")
        self._schema = schema
        self._native = _C.NcclGroup(open_library(library), schema.native, comm, device, stream)
        self.rank: int = self._native.rank
        self.size: int = self._native.size

    @one_caller
    def issue(self, lanes: Lanes) -> None:
        """See Group."""
        self._open().issue(lanes)

    @one_caller
    def issue_records(self, header: int, slots: int, endpoints: int) -> None:
        """Start a tick from device (or mapped pinned) memory, packed by a kernel on the stream.

        `header` is the address of one HEADER_DTYPE, `slots` of [num_slots] SLOT_DTYPE, `endpoints`
        of uint8[num_endpoint_lanes], not read while nobody asks. They are read when the stream gets
        there and must stay until result() returns. Values are not range checked; keep them in
        [0, 2^62).
        """
        self._open().issue_records(header, slots, endpoints)

    @one_caller
    def ready(self) -> bool:
        """See Group."""
        return self._open().ready()

    @one_caller
    def result(self, deadline_s: float) -> Lanes:
        """See Group."""
        lanes, _, _ = self._open().result(deadline_s, AgreedSlot)
        return lanes

    @one_caller
    def result_slots(self, deadline_s: float, epoch: int) -> dict[int, AgreedSlot]:
        """The slots of unpack(), but verified and unpacked by the kernel. `epoch`: for errors."""
        _, (lane, mine, low, high), slots = self._open().result(deadline_s, AgreedSlot)
        if lane >= 0:
            raise LaneError.of(self._schema, lane, epoch, mine, low, high)
        return slots

    @one_caller
    def close(self) -> None:
        """See Group. The communicator and the stream are the caller's and stay."""
        self._closed = True

    def _open(self) -> "_C.NcclGroup":
        self._check_open()
        return self._native
