"""What a machine can do, as numbers: links, copy engine, SMs, host memory.

The figures of the models below are published ones, of the sources named beside them; "inferred"
marks what nobody published. None of them was measured by this project: calibration.py replaces
them with measured ones where there is a GPU.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from enum import Enum

KIB = 1024


class Direction(Enum):
    """Between which memories the bytes go."""

    HOST_TO_HOST = "host -> host"
    HOST_TO_DEVICE = "host -> device"
    DEVICE_TO_HOST = "device -> host"
    DEVICE_TO_DEVICE = "device -> device"

    @classmethod
    def between(cls, src_device: str, dst_device: str) -> Direction:
        """From a buffer on src_device to one on dst_device; "cpu" is the host."""
        if src_device == "cpu":
            return cls.HOST_TO_HOST if dst_device == "cpu" else cls.HOST_TO_DEVICE
        return cls.DEVICE_TO_HOST if dst_device == "cpu" else cls.DEVICE_TO_DEVICE


def _check_numbers(model: CopyEngine | HostModel | DeviceModel) -> None:
    """Raises ValueError for what is no size, time or speed: a speed of 0 divides."""
    for field in fields(model):
        value = getattr(model, field.name)
        is_speed = field.name.endswith("bps") or field.name == "speeds"
        for number in _numbers(value):
            if not (number > 0 if is_speed else number >= 0) or math.isinf(number):
                raise ValueError(f"{type(model).__name__}: {field.name}={value}")


def _numbers(value: object) -> Iterator[float]:
    if isinstance(value, int | float):
        yield value
    elif isinstance(value, tuple):
        for part in value:
            yield from _numbers(part)


@dataclass(frozen=True)
class CopyEngine:
    """A batched copy call in one direction: call_s + n * max(entry_s, bytes / speed).

    The speed of an entry falls off a cliff where entries are short and many. speeds[i][j] is that
    of entries of entry_bytes[i] in a call of counts[j]; without a table there is no cliff.
    """

    peak_bps: float  # bytes/s of one large copy
    call_s: float = 5e-6  # LMCache
    entry_s: float = 0.6e-6  # LMCache, H200, CUDA 13.0
    single_s: float = 2.3e-6  # an entry that is a call of its own: FlexKV, H20
    entry_bytes: tuple[int, ...] = ()
    counts: tuple[int, ...] = ()
    speeds: tuple[tuple[float, ...], ...] = ()

    def __post_init__(self) -> None:
        _check_numbers(self)
        if [len(row) for row in self.speeds] != [len(self.counts)] * len(self.entry_bytes):
            raise ValueError(
                f"CopyEngine: speeds={self.speeds} of {len(self.entry_bytes)} sizes and "
                f"{len(self.counts)} counts"
            )

    def entry_seconds(self, num_entries: int, entry_bytes: float) -> float:
        """What one entry of entry_bytes adds to a call of num_entries."""
        return max(self.entry_s, entry_bytes / self.entry_bps(num_entries, entry_bytes))

    def entry_bps(self, num_entries: int, entry_bytes: float) -> float:
        """Bytes/s of such entries; between two lines of the table in proportion on log scales."""
        if not self.speeds:
            return self.peak_bps
        by_size = [_between(self.counts, row, num_entries) for row in self.speeds]
        if entry_bytes < self.entry_bytes[0]:  # it takes as long as the shortest that was measured
            return by_size[0] * entry_bytes / self.entry_bytes[0]
        return min(_between(self.entry_bytes, by_size, entry_bytes), self.peak_bps)


def _between(grid: tuple[int, ...], values: tuple[float, ...] | list[float], at: float) -> float:
    """`values` at `at`, log-log between its neighbours in `grid`, constant outside of it."""
    above = bisect_left(grid, at)
    if above == 0 or above == len(grid):
        return values[min(above, len(grid) - 1)]
    low, high = grid[above - 1], grid[above]
    share = math.log(at / low) / math.log(high / low)
    return values[above - 1] * math.pow(values[above] / values[above - 1], share)


@dataclass(frozen=True)
class HostModel:
    """Copies by CPU threads. 11 GB/s a core: notes of memcpy on servers; the rest is inferred."""

    thread_bps: float = 11e9
    memory_bps: float = 60e9  # what all threads together can copy
    run_s: float = 15e-9  # to locate a run and begin with it
    wake_s: float = 10e-6  # until other threads are at work

    def __post_init__(self) -> None:
        _check_numbers(self)


@dataclass(frozen=True)
class DeviceModel:
    """A GPU, its link to the host, and the host. Speeds in bytes/s, payload counted once."""

    name: str
    is_measured: bool
    sm_version: int  # 90 is compute capability 9.0
    num_sms: int
    to_device: CopyEngine
    to_host: CopyEngine
    on_device: CopyEngine
    round_trip_s: float  # of a load from host memory
    device_round_trip_s: float = 0.6e-6  # of a load from HBM; inferred
    sm_port_bps: float = 100e9  # one SM to L2: 64 B a clock; inferred
    device_copy_bps: float = 1.3e12  # by all SMs: 0.8 of half the peak of an H100's HBM
    launch_s: float = 5e-6  # 4 to 6 us
    upload_s: float = 8e-6  # page ids on their way to the device; inferred
    bulk_op_s: float = 20e-9  # one bulk copy of the shared-memory ring; inferred
    host: HostModel = HostModel()

    def __post_init__(self) -> None:
        _check_numbers(self)

    def engine(self, direction: Direction) -> CopyEngine:
        """The copy engine in this direction; there is none from host to host."""
        return {
            Direction.HOST_TO_DEVICE: self.to_device,
            Direction.DEVICE_TO_HOST: self.to_host,
            Direction.DEVICE_TO_DEVICE: self.on_device,
        }[direction]


# Batched copies host -> device on an H100 by entry size (vLLM PR 42212; its 50 000 entries stand
# for "many"). At 16 entries copy engines win everywhere (vLLM, A30 and H100): no cliff, inferred.
_CLIFF_BYTES = (4 * KIB, 16 * KIB, 24 * KIB, 28 * KIB, 64 * KIB, 128 * KIB)
_CLIFF_MANY = (4.0e9, 6.3e9, 6.7e9, 39.9e9, 51.4e9, math.inf)  # line rate from 128 KiB
_CLIFF_COUNTS = (16, 256)


def cliff_engine(peak_bps: float) -> CopyEngine:
    """A copy engine with the cliff that was published for an H100, behind a link of peak_bps."""
    few = (peak_bps,) * len(_CLIFF_BYTES)
    many = tuple(min(speed, peak_bps) for speed in _CLIFF_MANY)
    speeds = tuple(zip(few, many, strict=True))
    return CopyEngine(peak_bps, entry_bytes=_CLIFF_BYTES, counts=_CLIFF_COUNTS, speeds=speeds)


# Within the device a copy engine reaches 87 GiB/s only (NCCL issue 2177). To the host the cliff is
# milder and no table is published: LMCache's formula, which has none.
_ON_DEVICE = CopyEngine(peak_bps=93e9)

PCIE5 = DeviceModel(
    name="PCIe 5 x16",
    is_measured=False,
    sm_version=90,
    num_sms=132,
    to_device=cliff_engine(55e9),  # LMCache on an H200
    to_host=CopyEngine(peak_bps=55e9),
    on_device=_ON_DEVICE,
    round_trip_s=1.3e-6,  # measured on C2C; 1.0 to 1.6 us assumed for PCIe
)
PCIE4 = replace(
    PCIE5,
    name="PCIe 4 x16",
    sm_version=80,
    num_sms=108,
    to_device=cliff_engine(25e9),  # 24 to 26 GB/s on A100, L40S, A30
    to_host=CopyEngine(peak_bps=25e9),
    device_copy_bps=0.8e12,  # 0.8 of half the peak of an A100's HBM
)
C2C = replace(
    PCIE5,
    name="NVLink-C2C, GB300",
    sm_version=103,
    num_sms=152,
    to_device=cliff_engine(210e9),  # SGLang PR 40278, as is the round trip
    to_host=CopyEngine(peak_bps=192e9),
    device_copy_bps=3.2e12,  # 0.8 of half of 8 TB/s
)
DEFAULTS = {"pcie4": PCIE4, "pcie5": PCIE5, "c2c": C2C}


def default_model(link: str, sm_version: int, num_sms: int) -> DeviceModel:
    """The published figures that come nearest to a GPU behind a link of device_link.link_of;
    those of PCIe 5 where it is not known."""
    model = DEFAULTS.get(link.partition(" ")[0], PCIE5)
    return replace(model, sm_version=sm_version, num_sms=num_sms)
