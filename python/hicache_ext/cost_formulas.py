"""Seconds of each executor, term by term.

Bytes in flight / round trip for kernels that reach over the link, call and entry costs with a cliff
for copy engines, a gather hidden behind the DMA for staging, threads and runs on the CPU. The
numbers are a DeviceModel's.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple

from hicache_ext.copy_work import SEGMENT_BYTES, PartWork, Work
from hicache_ext.device_model import CopyEngine, DeviceModel, Direction

# Mirrors csrc/include/hicache/copy_worker.h and copy_ring.h; tests/test_cost.py compares.
_SHORT_RUN = 512
_SHORT_ROUND, _LONG_ROUND = 8 * 4 * 16, 32 * 8 * 16  # bytes of a worker between load and store
_SHORT_WORKERS, _LONG_WORKERS = 1024 // 8, 512 // 32  # of a block
_RING_BYTES, _RING_STAGES, _MAX_RINGS = 192 * 1024, 4, 128
_LINE_BYTES = 128
_HOST_SMS = 4  # the default quota where the host takes part
_CPU_TASK_BYTES = 1 << 20

Terms = dict[str, float]  # what the time goes into -> seconds; they add up


def _cpu_ref(work: Work, model: DeviceModel) -> Terms:
    # Stores through the cache read each line first: three passes over memory instead of two.
    return _cpu_on(work, model, num_threads=1, speed=model.host.thread_bps * 2 / 3)


def _cpu(work: Work, model: DeviceModel) -> Terms:
    num_tasks = math.ceil(work.num_bytes / _CPU_TASK_BYTES)
    num_threads = min(work.num_threads, num_tasks)
    speed = min(num_threads * model.host.thread_bps, model.host.memory_bps)
    return _cpu_on(work, model, num_threads, speed)


def _cpu_on(work: Work, model: DeviceModel, num_threads: int, speed: float) -> Terms:
    num_runs = sum(part.num_runs for part in work.parts)
    return {
        f"memory at {speed / 1e9:.3g} GB/s": work.num_bytes / speed,
        "the number of runs": num_runs * model.host.run_s / num_threads,
        "waking threads": model.host.wake_s if num_threads > 1 else 0.0,
    }


def _ce_batch(work: Work, model: DeviceModel) -> Terms:
    engine = model.engine(work.direction)
    if work.on_null_stream:  # a call for each entry instead of a batch
        engine = replace(engine, entry_s=engine.single_s)
    num_entries = sum(part.num_runs for part in work.parts)
    terms = {"the call": engine.call_s}
    for part in work.parts:
        what = _entry_limit(engine, num_entries, part.run_bytes)
        seconds = part.num_runs * engine.entry_seconds(num_entries, part.run_bytes)
        terms[what] = terms.get(what, 0.0) + seconds
    return terms


def _entry_limit(engine: CopyEngine, num_entries: int, entry_bytes: int) -> str:
    speed = engine.entry_bps(num_entries, entry_bytes)
    if entry_bytes / speed <= engine.entry_s:
        return f"{engine.entry_s * 1e6:.2g} us of CPU for each entry of {entry_bytes} B"
    if speed < engine.peak_bps / 2:
        return f"the copy engine: {speed / 1e9:.3g} GB/s with entries of {entry_bytes} B"
    return f"the link at {speed / 1e9:.3g} GB/s"


def _sm_reg(work: Work, model: DeviceModel) -> Terms:
    return _kernel(work, model, register_block)


def _sm_bulk(work: Work, model: DeviceModel) -> Terms:
    terms = _kernel(work, model, _bulk_block)
    num_ctas = work.num_sms or default_sms(work.direction, model)
    num_ops = sum(part.num_runs * part.segments_per_run for part in work.parts)
    issue_s = num_ops * model.bulk_op_s / num_ctas
    return {"issuing bulk copies": issue_s} if issue_s > sum(terms.values()) else terms


class _Block(NamedTuple):
    """What one block of a kernel does at a time."""

    num_workers: int
    bytes_in_flight: float


def register_block(part: PartWork) -> _Block:
    """The last round of a run is not full, and short words carry less."""
    is_short = part.run_bytes <= _SHORT_RUN
    word = next(size for size in (16, 8, 4, 1) if part.align_bytes % size == 0)
    full = (_SHORT_ROUND if is_short else _LONG_ROUND) * word // 16
    num_workers = _SHORT_WORKERS if is_short else _LONG_WORKERS
    return _Block(num_workers, num_workers * part.run_bytes / math.ceil(part.run_bytes / full))


def _bulk_block(part: PartWork) -> _Block:
    """As many rings as fit; one slot of each is being stored."""
    slot_bytes = min(part.run_bytes, SEGMENT_BYTES)
    num_rings = min(_MAX_RINGS, _RING_BYTES // (_RING_STAGES * (slot_bytes + 8)))
    return _Block(num_rings, num_rings * (_RING_STAGES - 1) * slot_bytes)


def _kernel(work: Work, model: DeviceModel, block_of: Callable[[PartWork], _Block]) -> Terms:
    """A persistent kernel: launch, page ids up, then bytes at the speed that its blocks reach."""
    terms = {"launch and page ids": model.launch_s + (model.upload_s if work.has_host_ids else 0)}
    for part in work.parts:
        if part.num_bytes:
            speed, what = _kernel_bps(part, work, model, block_of(part))
            terms[what] = terms.get(what, 0.0) + part.num_bytes / speed
    return terms


def _kernel_bps(part: PartWork, work: Work, model: DeviceModel, block: _Block) -> tuple[float, str]:
    num_sms = min(work.num_sms or default_sms(work.direction, model), model.num_sms)
    is_local = work.direction is Direction.DEVICE_TO_DEVICE
    round_trip_s = model.device_round_trip_s if is_local else model.round_trip_s
    num_blocks = min(num_sms, math.ceil(part.num_runs * part.segments_per_run / block.num_workers))
    by_blocks = num_blocks * min(block.bytes_in_flight / round_trip_s, model.sm_port_bps)
    peak = model.device_copy_bps if is_local else model.engine(work.direction).peak_bps
    limit = peak * _line_share(part)
    if by_blocks < limit:
        return by_blocks, f"what {num_blocks} SMs keep in flight: {by_blocks / 1e9:.3g} GB/s"
    where = "device memory" if is_local else "the link"
    return limit, f"{where} at {limit / 1e9:.3g} GB/s"


def default_sms(direction: Direction, model: DeviceModel) -> int:
    """The quota of a kernel that was given none."""
    if direction is Direction.DEVICE_TO_DEVICE:
        return max(1, model.num_sms // 4)
    return _HOST_SMS


def _line_share(part: PartWork) -> float:
    """Payload of the 128-byte lines that a run touches, where it begins as late as it may."""
    offset = _LINE_BYTES - min(part.align_bytes, _LINE_BYTES)
    num_lines = math.ceil((part.run_bytes + offset) / _LINE_BYTES)
    return part.run_bytes / (num_lines * _LINE_BYTES)


def _staged(work: Work, model: DeviceModel) -> Terms:
    """Two staging buffers: the kernel works on one while the other is on the link."""
    engine = model.engine(work.direction)
    local = replace(work, direction=Direction.DEVICE_TO_DEVICE)
    parts = [part for part in work.parts if part.num_bytes]
    num_entries = sum(part.num_bytes // part.dma_bytes for part in parts)
    kernel_s, link_s = 0.0, engine.call_s
    for part in parts:
        speed, _ = _kernel_bps(part, local, model, register_block(part))
        kernel_s += part.num_bytes / speed
        each = engine.entry_seconds(num_entries, part.dma_bytes)
        link_s += part.num_bytes / part.dma_bytes * each
    num_chunks = math.ceil(work.num_bytes / work.slot_bytes)
    return {
        "launches and page ids": num_chunks * model.launch_s + model.upload_s,
        "the first chunk on the device": kernel_s / num_chunks,
        "the link" if link_s >= kernel_s else "the kernel": max(link_s, kernel_s),
    }


TERMS: dict[str, Callable[[Work, DeviceModel], Terms]] = {
    "ce_batch": _ce_batch,
    "staged": _staged,
    "sm_reg": _sm_reg,
    "sm_bulk": _sm_bulk,
    "cpu": _cpu,
    "cpu_ref": _cpu_ref,
}
