"""Measures what a device can do: a DeviceModel from copies that take less than half a second.

`measure` does the copies, on a GPU or as a test imagines it; nothing here knows how.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace
from typing import Protocol

from hicache_ext.copy_work import PartWork, Work
from hicache_ext.cost_formulas import register_block
from hicache_ext.device_model import KIB, CopyEngine, DeviceModel, Direction, default_model

SCRATCH_BYTES = 32 << 20  # on each side; no probe moves more
_ENTRY_BYTES = (4 * KIB, 8 * KIB, 16 * KIB, 24 * KIB, 28 * KIB, 64 * KIB, 128 * KIB)
_COUNTS = (16, 64, 256, 2048)
_TINY = 16  # bytes: the time of a copy that moves nothing to speak of


@dataclass(frozen=True)
class DeviceFacts:
    """What a measurement is good for: this GPU with this driver behind this link."""

    uuid: str
    driver: str
    link: str  # of device_link.link_of
    sm_version: int
    num_sms: int


class Measure(Protocol):
    """Seconds from the call until the bytes are there, the best of a few copies."""

    def __call__(self, executor: str, work: Work) -> float: ...


def calibrate(facts: DeviceFacts, measure: Measure, executors: Collection[str]) -> DeviceModel:
    """The model of a device, from probes of those executors that it has."""
    model = default_model(facts.link, facts.sm_version, facts.num_sms)
    if "ce_batch" in executors:
        model = _with_engines(model, measure)
    if "sm_reg" in executors:
        model = _with_kernels(model, measure)
    if "sm_bulk" in executors:
        ops = _probe(Direction.HOST_TO_DEVICE, 256, 16384, num_sms=1)
        model = replace(model, bulk_op_s=_net(measure("sm_bulk", ops), model.launch_s) / 16384)
    return replace(model, name=f"{model.name}, measured", is_measured=True)


def _probe(direction: Direction, run_bytes: int, num_runs: int, num_sms: int | None = None) -> Work:
    """num_runs runs that no executor can merge, as far as the scratch buffers go."""
    num_pages = min(num_runs, SCRATCH_BYTES // run_bytes)
    return Work(direction, (PartWork(num_pages, 1, run_bytes, 16),), num_sms=num_sms)


def _net(seconds: float, fixed_s: float) -> float:
    """Without the fixed part, as far as one can tell them apart."""
    return max(seconds - fixed_s, seconds / 10)


def _with_engines(model: DeviceModel, measure: Measure) -> DeviceModel:
    engines = {
        direction: _engine(direction, model.engine(direction), measure)
        for direction in (Direction.HOST_TO_DEVICE, Direction.DEVICE_TO_HOST)
    }
    local = _probe(Direction.DEVICE_TO_DEVICE, SCRATCH_BYTES, 1)
    local_s = measure("ce_batch", local)
    return replace(
        model,
        to_device=engines[Direction.HOST_TO_DEVICE],
        to_host=engines[Direction.DEVICE_TO_HOST],
        on_device=replace(model.on_device, peak_bps=local.num_bytes / local_s),
    )


def _engine(direction: Direction, engine: CopyEngine, measure: Measure) -> CopyEngine:
    call_s = measure("ce_batch", _probe(direction, _TINY, 1))
    large = _probe(direction, SCRATCH_BYTES, 1)
    peak_bps = large.num_bytes / _net(measure("ce_batch", large), call_s)
    speeds = []
    for entry_bytes in _ENTRY_BYTES:
        probes = [_probe(direction, entry_bytes, count) for count in _COUNTS]
        seconds = [_net(measure("ce_batch", probe), call_s) for probe in probes]
        pairs = zip(probes, seconds, strict=True)
        speeds.append(tuple(probe.num_bytes / taken_s for probe, taken_s in pairs))
    # The table holds what an entry costs the CPU as well.
    return replace(
        engine,
        peak_bps=peak_bps,
        call_s=call_s,
        entry_s=0.0,
        entry_bytes=_ENTRY_BYTES,
        counts=_COUNTS,
        speeds=tuple(speeds),
    )


def _with_kernels(model: DeviceModel, measure: Measure) -> DeviceModel:
    start_s = measure("sm_reg", _probe(Direction.HOST_TO_DEVICE, _TINY, 1))
    launch_s = min(model.launch_s, start_s)
    trips = {}
    for direction in (Direction.HOST_TO_DEVICE, Direction.DEVICE_TO_DEVICE):
        # Runs of 1 KiB keep so little in flight that one SM is slower than any link.
        one_sm = _probe(direction, KIB, 8192, num_sms=1)
        seconds = _net(measure("sm_reg", one_sm), start_s)
        in_flight = register_block(one_sm.parts[0]).bytes_in_flight
        trips[direction] = in_flight * seconds / one_sm.num_bytes
    all_sms = _probe(Direction.DEVICE_TO_DEVICE, 64 * KIB, 2048, num_sms=model.num_sms)
    all_s = _net(measure("sm_reg", all_sms), start_s)
    return replace(
        model,
        launch_s=launch_s,
        upload_s=start_s - launch_s,
        round_trip_s=trips[Direction.HOST_TO_DEVICE],
        device_round_trip_s=trips[Direction.DEVICE_TO_DEVICE],
        device_copy_bps=all_sms.num_bytes / all_s,
    )
