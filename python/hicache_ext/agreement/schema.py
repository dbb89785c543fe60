"""The lanes of a tick: what they are called, how states become lanes and lanes become agreements.

The format itself is csrc/include/hicache/lanes.h, shared with the CUDA kernels.
"""

import hashlib
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from hicache_ext import _C
from hicache_ext.errors import AgreementError
from hicache_ext.version import VERSION

Lanes = npt.NDArray[np.int64]

NOT_MINE: int = _C.LANE_NEUTRAL
"""A hit count of a pool that this rank does not have: it never lowers the minimum."""

NO_OP = -1
"""What the op lane of an unused slot carries, and that of the asking slot while nobody asks."""

_PAIRS = ("schema", "epoch", "digest", "ops", "calls", "waiting", "asking")
_HEADER = tuple(name for pair in _PAIRS for name in (pair, f"~{pair}"))
_SLOT = ("op", "~op", "step", "~step", "ready", "pages", "~pages")


class TickHeader(NamedTuple):
    """What a rank says about itself. All but the free pages must be equal on all ranks."""

    epoch: int
    digest: int
    """Of the tree, before the tick is applied."""
    num_ops: int = 0
    """Created so far."""
    calls: int = 0
    """A hash of all calls so far; 0 where calls are not compared."""
    num_waiting: int = 0
    """Ops that have no slot yet."""
    asking_slot: int | None = None
    """The slot whose endpoints the endpoint lanes carry; None: nobody asks."""
    free_pages: tuple[int, ...] | None = None
    """Of each device pool, then of each host pool; None: not told."""


class SlotState(NamedTuple):
    """What this rank says about the op in one slot. Counts are pages; every value is in [0, 2^62).

    A tuple rather than a dataclass: the native packer reads 128 of them in a few microseconds.
    """

    op_id: int
    step: int
    ready: bool
    num_pages: int
    short: tuple[int, ...]
    """Pages that this rank lacks, per pool of the schema; 0 = none."""
    hits: tuple[int, ...]
    """Pages that this rank can get or has got, per pool; NOT_MINE for a pool that it has not."""
    failed: bool = False
    """This rank gives the op up: it wins over everything else the ranks say about the slot."""


class AgreedSlot(NamedTuple):
    """What all ranks say together about the op in one slot; the same value on every rank."""

    op_id: int
    step: int
    min_pages: int
    """0 when any rank failed."""
    max_pages: int
    """The largest of the ranks that did not fail."""
    short: tuple[int, ...]
    """The largest shortage of any rank that did not fail, per pool."""
    hits: tuple[int, ...]
    """The smallest hit count per pool, 0 when any rank failed; NOT_MINE where no rank has it."""
    any_failed: bool
    endpoint_idx: int
    """The first endpoint lane that all ranks have set; -1: none, or another slot has asked."""


class AgreedTick(NamedTuple):
    """What all ranks say together; the same on every rank."""

    slots: dict[int, AgreedSlot]
    """Those where something is decided, in op order: every rank is ready, or one has failed."""
    free_pages: tuple[int, ...]
    """The fewest of any rank: of each device pool, then of each host pool; NOT_MINE: not told."""


class TickSchema:
    """The lanes of every tick of one configuration: a fixed number, whatever is in flight.

    `pools` are the names in registry order; they must be the same, in the same order, on every
    rank, which the hash in each tick verifies, and with it the version of the package and whatever
    `config` says in words.
    AgreementError for a name that is empty or appears twice, for too many pools, or for less than
    one slot or endpoint lane.
    """

    def __init__(
        self,
        pools: Sequence[str],
        num_slots: int = 64,
        num_endpoint_lanes: int = 128,
        *,
        config: str = "",
    ) -> None:
        self.pools = tuple(pools)
        self.num_slots = num_slots
        self.num_endpoint_lanes = num_endpoint_lanes
        for i, name in enumerate(self.pools):
            if not name or name in self.pools[:i]:
                raise AgreementError(f"pool {i} is named {name!r}: empty or not unique")
        self.text = (
            f"hicache_ext {VERSION}, lane format {_C.LANE_FORMAT}, pools {self.pools}, "
            f"{num_slots} slots, {num_endpoint_lanes} endpoint lanes, {config}"
        )
        digest = hashlib.blake2b(self.text.encode(), digest_size=8, person=b"hicache-tick").digest()
        self.hash: int = int.from_bytes(digest, "little") >> 2
        self.native = _C.LaneSchema(self.hash, len(self.pools), num_slots, num_endpoint_lanes)
        self.num_lanes: int = self.native.num_lanes

    def lane_name(self, lane: int) -> str:
        """E.g. "epoch", "slot[3].op", "slot[3].hit[swa]"; IndexError when there is no such lane."""
        if not 0 <= lane < self.num_lanes:
            raise IndexError(f"lane {lane} not in [0, {self.num_lanes})")
        free = [f"free.{tier}[{pool}]" for tier in ("device", "host") for pool in self.pools]
        header = [*_HEADER, *free]
        if lane < len(header):
            return header[lane]
        if (endpoint := lane - (self.num_lanes - self.num_endpoint_lanes)) >= 0:
            return f"endpoint[{endpoint}]"
        slot, field = divmod(lane - len(header), len(_SLOT) + 2 * len(self.pools))
        if field < len(_SLOT):
            return f"slot[{slot}].{_SLOT[field]}"
        pool, is_hit = divmod(field - len(_SLOT), 2)
        return f"slot[{slot}].{'hit' if is_hit else 'short'}[{self.pools[pool]}]"

    def __repr__(self) -> str:
        return f"TickSchema(pools={self.pools}, num_slots={self.num_slots}, hash={self.hash:#x})"


class LaneError(AgreementError):
    """A lane of a tick is not what it must be."""

    epoch: int
    lane: int
    name: str
    is_seen_by_all: bool
    """Ranks differ, or one sent garbage: every rank sees it at the same tick. Else the group has
    lost our lanes."""

    @classmethod
    def of(
        cls, schema: TickSchema, lane: int, epoch: int, mine: int | None, low: int, high: int
    ) -> "LaneError":
        """`mine` None: not known; `low` and `high`: the smallest and the largest of all ranks."""
        name = schema.lane_name(lane)
        is_garbage = name.endswith(".ready") and mine is not None and low <= mine
        shown = [show_value(name, value) for value in (mine, low, high)]
        error = cls(
            f"tick {epoch}: ranks differ in lane {lane} ({name}): this rank has {shown[0]}, "
            f"the smallest of all ranks is {shown[1]}"
            + ("; that is garbage" if is_garbage else f", the largest {shown[2]}")
        )
        error.epoch, error.lane, error.name = epoch, lane, name
        error.is_seen_by_all = low < high or is_garbage
        return error


def show_value(name: str, value: int | None) -> str:
    """A value of the lane `name` as an error shows it; None: not known."""
    if value is None:
        return "?"
    if name == "schema":
        return f"{value:#x}"
    if name == "asking" and value == NO_OP:
        return f"{value} (nobody)"
    return f"{value} (slot unused)" if name.endswith(".op") and value == NO_OP else f"{value}"


class Packer:
    """What a rank says, tick by tick. Only what changes is read and packed."""

    def __init__(self, schema: TickSchema) -> None:
        self._native = _C.LanePacker(schema.native)

    def pack(
        self,
        header: TickHeader,
        changes: Mapping[int, SlotState | None],
        endpoints: bytes | bytearray = b"",
    ) -> Lanes:
        """This rank's lanes for one tick: int64[schema.num_lanes], owned by the caller.

        Slots that are not in `changes` are what they were in the last tick, before the first one
        unused. None: no longer used; a slot must be used on every rank or on none.
        `endpoints`: a byte for each endpoint lane, from the first on, of the slot that asks: 1
        where this rank has the endpoint, 0 (and past the end) where it has not. AgreementError,
        with slot, field and value, for anything out of range.
        """
        changes = changes if type(changes) is dict else dict(changes)
        return self._native.pack(header, changes, endpoints)


def pack(
    schema: TickSchema,
    header: TickHeader,
    slots: Mapping[int, SlotState],
    endpoints: bytes | bytearray = b"",
) -> Lanes:
    """See Packer.pack; for one tick alone."""
    return Packer(schema).pack(header, slots, endpoints)


def unpack(schema: TickSchema, lanes: Lanes, epoch: int, mine: Lanes) -> AgreedTick:
    """What all ranks agreed on in tick `epoch`, after verifying that it can be applied.

    `lanes` is the MIN over all ranks of what `pack` returned, `mine` what it returned here.

    LaneError names the first lane that is not equal on all ranks (one of the header, an op or its
    step, a slot that one rank uses and another does not), this rank's value and the smallest and
    largest of all. Nothing of such a tick may be applied.
    """
    verdict, slots, free_pages = _C.lanes_unpack(schema.native, lanes, mine, AgreedSlot)
    if verdict[0] >= 0:
        raise LaneError.of(schema, verdict[0], epoch, *verdict[1:])
    return AgreedTick(slots, free_pages)
