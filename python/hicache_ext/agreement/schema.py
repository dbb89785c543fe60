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

Lanes = npt.NDArray[np.int64]

NOT_MINE: int = _C.LANE_NEUTRAL
"""A hit count of a pool that this rank does not have: it never lowers the minimum."""

NO_OP = -1
"""What the op lane of an unused slot carries, as `slot[i].op` in an error shows it."""

_HEADER = ("schema", "~schema", "epoch", "~epoch", "digest", "~digest")
_SLOT = ("op", "~op", "step", "~step", "ready", "pages", "~pages")


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
    all_ready: bool
    """False also when any rank failed."""
    min_pages: int
    """0 when any rank failed."""
    max_pages: int
    """The largest of the ranks that did not fail."""
    short: tuple[int, ...]
    """The largest shortage of any rank that did not fail, per pool."""
    hits: tuple[int, ...]
    """The smallest hit count per pool, 0 when any rank failed; NOT_MINE where no rank has it."""
    any_failed: bool


class TickSchema:
    """The lanes of every tick of one configuration: a fixed number, whatever is in flight.

    `pools` are the names in registry order; they must be the same, in the same order, on every
    rank, which the hash in each tick verifies, and with it whatever `config` says in words.
    AgreementError for a name that is empty or appears twice, for too many pools, or for less than
    one slot.
    """

    def __init__(self, pools: Sequence[str], num_slots: int = 64, config: str = "") -> None:
        self.pools = tuple(pools)
        self.num_slots = num_slots
        for i, name in enumerate(self.pools):
            if not name or name in self.pools[:i]:
                raise AgreementError(f"pool {i} is named {name!r}: empty or not unique")
        self.text = f"format {_C.LANE_FORMAT}, pools {self.pools}, {num_slots} slots, {config}"
        digest = hashlib.blake2b(self.text.encode(), digest_size=8, person=b"hicache-tick").digest()
        self.hash: int = int.from_bytes(digest, "little") >> 2
        self.native = _C.LaneSchema(self.hash, len(self.pools), num_slots)
        self.num_lanes: int = self.native.num_lanes

    def lane_name(self, lane: int) -> str:
        """E.g. "epoch", "slot[3].op", "slot[3].hit[swa]"; IndexError when there is no such lane."""
        if not 0 <= lane < self.num_lanes:
            raise IndexError(f"lane {lane} not in [0, {self.num_lanes})")
        if lane < len(_HEADER):
            return _HEADER[lane]
        slot, field = divmod(lane - len(_HEADER), len(_SLOT) + 2 * len(self.pools))
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
    """Ranks differ, which every rank sees at the same tick; else the group has lost our lanes."""

    @classmethod
    def of(
        cls, schema: TickSchema, lane: int, epoch: int, mine: int | None, low: int, high: int
    ) -> "LaneError":
        """`mine` None: not known; `low` and `high`: the smallest and the largest of all ranks."""
        name = schema.lane_name(lane)
        shown = [show_value(name, value) for value in (mine, low, high)]
        error = cls(
            f"tick {epoch}: ranks differ in lane {lane} ({name}): this rank has {shown[0]}, "
            f"the smallest of all ranks is {shown[1]}, the largest {shown[2]}"
        )
        error.epoch, error.lane, error.name = epoch, lane, name
        error.is_seen_by_all = low < high
        return error


def show_value(name: str, value: int | None) -> str:
    """A value of the lane `name` as an error shows it; None: not known."""
    if value is None:
        return "?"
    if name == "schema":
        return f"{value:#x}"
    return f"{value} (slot unused)" if name.endswith(".op") and value == NO_OP else f"{value}"


def pack(schema: TickSchema, epoch: int, digest: int, slots: Mapping[int, SlotState]) -> Lanes:
    """This rank's lanes for tick `epoch`: int64[schema.num_lanes], owned by the caller.

    `digest` is that of the tree before the tick is applied. Slots that are not in `slots` are
    unused here, and must be unused on every other rank. AgreementError, with slot, field and
    value, for anything out of range.
    """
    return Packer(schema).pack(epoch, digest, slots)


class Packer:
    """pack() from tick to tick: a slot whose state is the same object as before costs nothing."""

    def __init__(self, schema: TickSchema) -> None:
        self._native = _C.LanePacker(schema.native)

    def pack(self, epoch: int, digest: int, slots: Mapping[int, SlotState]) -> Lanes:
        """See pack()."""
        return self._native.pack(epoch, digest, slots if type(slots) is dict else dict(slots))


def unpack(
    schema: TickSchema,
    lanes: Lanes,
    epoch: int,
    slots_mine: Mapping[int, SlotState] | Lanes,
    *,
    digest: int | None = None,
) -> dict[int, AgreedSlot]:
    """What all ranks agreed on in tick `epoch`, by slot, after verifying that it can be applied.

    `lanes` is the MIN over all ranks of what `pack` returned. `slots_mine` is what this rank put
    in: the mapping, or (cheaper) the very lanes that `pack` returned. With a mapping, the digest
    of the tree is verified against `digest` if that is given, else only among the ranks.

    AgreementError names the first lane that is not equal on all ranks (schema, epoch, digest, an
    op or its step, a slot that one rank uses and another does not), this rank's value and the
    smallest and largest of all. Nothing of such a tick may be applied.
    """
    if isinstance(slots_mine, np.ndarray):
        mine: Lanes = slots_mine
    else:
        mine = pack(schema, epoch, 0 if digest is None else digest, slots_mine)
        if digest is None and lanes.size == mine.size and lanes[4] == ~lanes[5]:
            mine[4:6] = lanes[4:6]
    (lane, my_value, low, high), agreed = _C.lanes_unpack(schema.native, lanes, mine, AgreedSlot)
    if lane >= 0:
        unknown = mine is not slots_mine and digest is None and schema.lane_name(lane) == "digest"
        shown = None if unknown else my_value
        raise LaneError.of(schema, lane, epoch, shown, low, high)
    return agreed


def unpack_settled(
    schema: TickSchema, lanes: Lanes, epoch: int, mine: Lanes
) -> dict[int, AgreedSlot]:
    """As unpack(), but only the slots whose op can move: all ranks are ready, or one has failed.

    The others are verified, too; most ops of a tick wait for I/O, and cost nothing here.
    """
    verdict, agreed = _C.lanes_unpack_settled(schema.native, lanes, mine, AgreedSlot)
    if verdict[0] >= 0:
        raise LaneError.of(schema, verdict[0], epoch, *verdict[1:])
    return agreed
