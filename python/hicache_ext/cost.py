"""How long each executor will take for a copy, and which one `auto` takes.

Formulas: bytes in flight / round trip for kernels that reach over the link, call and entry costs
with a cliff for copy engines, gather hidden behind the DMA for staging, threads and runs on the
CPU. The numbers in them are a DeviceModel's. Nothing here needs a GPU or the native module.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection
from dataclasses import dataclass, replace

from hicache_ext.device_model import CopyEngine, DeviceModel, Direction

EXECUTORS = ("ce_batch", "staged", "sm_reg", "sm_bulk", "cpu", "cpu_ref")  # by preference
_NEAR = 1.1  # predictions this close are no reason to take SMs from the model

# Mirrors csrc/include/hicache/copy_worker.h; tests/test_cost.py compares.
_SHORT_RUN = 512
_SHORT_ROUND, _LONG_ROUND = 8 * 4 * 16, 32 * 8 * 16  # bytes of a worker between load and store
_SHORT_WORKERS, _LONG_WORKERS = 1024 // 8, 512 // 32  # of a block
_SEGMENT_BYTES = 16384
_RING_BYTES = 192 * 1024
_LINE_BYTES = 128
_HOST_SMS = 4  # the default quota where the host takes part
_CPU_TASK_BYTES = 1 << 20


@dataclass(frozen=True)
class PartWork:
    """One plan of a copy: num_pages times runs_per_page runs of run_bytes."""

    num_pages: int
    runs_per_page: int
    run_bytes: int
    align_bytes: int = 128  # of every run on both sides
    host_run_bytes: int = 0  # contiguous on the host's side alone; 0: a run, not more

    @property
    def num_runs(self) -> int:
        return self.num_pages * self.runs_per_page

    @property
    def num_bytes(self) -> int:
        return self.num_runs * self.run_bytes

    @property
    def dma_bytes(self) -> int:
        """One copy between staging and the host."""
        return max(self.host_run_bytes, self.run_bytes)


@dataclass(frozen=True)
class Work:
    """A copy as its cost depends on it."""

    direction: Direction
    parts: tuple[PartWork, ...]
    num_threads: int = 1
    num_sms: int | None = None  # None: the executor's own quota
    host_ids_on_device: bool = False  # the page ids of the host's side lie on the device
    device_ids_on_device: bool = False
    is_capturing: bool = False  # the stream records a CUDA graph
    on_null_stream: bool = False

    @property
    def num_bytes(self) -> int:
        return sum(part.num_bytes for part in self.parts)


@dataclass(frozen=True)
class Prediction:
    """Seconds and what bounds them; None seconds: the executor cannot, and `limit` says why."""

    executor: str
    seconds: float | None
    limit: str


@dataclass(frozen=True)
class Choice:
    """What `auto` takes: an executor (None where none can), the reason, all predictions."""

    executor: str | None
    reason: str
    predictions: tuple[Prediction, ...]


def choose(work: Work, model: DeviceModel, available: Collection[str] = EXECUTORS) -> Choice:
    """The fastest executor; of those that are nearly as fast, the one that holds fewest SMs."""
    predictions = tuple(predict(work, name, model, available) for name in EXECUTORS)
    able = [(p.seconds, p) for p in predictions if p.seconds is not None]
    if not able:
        return Choice(None, "none can", predictions)
    best_s = min(seconds for seconds, _ in able)
    taken_s, taken = next(pair for pair in able if pair[0] <= best_s * _NEAR)
    others = [pair for pair in able if pair[1] is not taken]
    reasons = [taken.limit]
    if others:
        other_s, other = min(others, key=lambda pair: pair[0])
        if other_s <= taken_s * _NEAR:
            reasons.append(f"{other.executor} is not {_NEAR:g} times as fast, and asks for more")
        else:
            ratio = f"{other_s / taken_s:.2g} times as long"
            reasons.append(f"{other.executor} would take {ratio}: {other.limit}")
    return Choice(taken.executor, "; ".join(reasons), predictions)


def predict(
    work: Work, executor: str, model: DeviceModel, available: Collection[str] = EXECUTORS
) -> Prediction:
    """What `executor` will take for `work` on a machine like `model`."""
    reason = "not in this build" if executor not in available else _why_not(work, executor, model)
    if reason:
        return Prediction(executor, None, reason)
    if work.num_bytes == 0:
        return Prediction(executor, 0.0, "nothing to copy")
    terms = _TERMS[executor](work, model)
    return Prediction(executor, sum(terms.values()), max(terms, key=lambda what: terms[what]))


def _why_not(work: Work, executor: str, model: DeviceModel) -> str:
    """Why the executor cannot do this copy, or nothing."""
    on_host = work.direction is Direction.HOST_TO_HOST
    if executor in ("cpu", "cpu_ref"):
        return "" if on_host else "a CPU thread does not reach the device"
    if on_host:
        return "both sides are on the host"
    if executor in ("ce_batch", "staged"):
        return _why_no_engine(work, executor)
    if executor == "sm_bulk":
        if model.sm_version < 90:
            return f"needs sm_90, this is sm_{model.sm_version}"
        align_bytes = min((part.align_bytes for part in work.parts), default=16)
        if align_bytes < 16:
            return f"needs runs aligned to 16 B, these are to {align_bytes} B"
    return ""


def _why_no_engine(work: Work, executor: str) -> str:
    if work.is_capturing:
        return "a batched copy cannot be captured"
    if work.host_ids_on_device or (executor == "ce_batch" and work.device_ids_on_device):
        return "needs the page ids on the host"
    if executor == "staged" and work.direction is Direction.DEVICE_TO_DEVICE:
        return "stages only what crosses the link"
    return ""


Terms = dict[str, float]  # what the time goes into -> seconds; they add up


def _cpu_ref(work: Work, model: DeviceModel) -> Terms:
    return _cpu_on(work, model, num_threads=1)


def _cpu(work: Work, model: DeviceModel) -> Terms:
    num_tasks = math.ceil(work.num_bytes / _CPU_TASK_BYTES)
    return _cpu_on(work, model, num_threads=min(work.num_threads, num_tasks))


def _cpu_on(work: Work, model: DeviceModel, num_threads: int) -> Terms:
    host = model.host
    speed = min(num_threads * host.thread_bps, host.memory_bps)
    num_runs = sum(part.num_runs for part in work.parts)
    return {
        f"memory at {speed / 1e9:.3g} GB/s": work.num_bytes / speed,
        "the number of runs": num_runs * host.run_s / num_threads,
        "waking threads": host.wake_s if num_threads > 1 else 0.0,
    }


def _ce_batch(work: Work, model: DeviceModel) -> Terms:
    engine = model.engine(work.direction)
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
    return _kernel(work, model, _register_bytes_in_flight)


def _sm_bulk(work: Work, model: DeviceModel) -> Terms:
    terms = _kernel(work, model, lambda part: _RING_BYTES)
    num_ctas = work.num_sms or default_sms(work.direction, model)
    num_ops = sum(part.num_runs * math.ceil(part.run_bytes / _SEGMENT_BYTES) for part in work.parts)
    issue_s = num_ops * model.bulk_op_s / num_ctas
    if issue_s > sum(terms.values()):
        return {"issuing bulk copies": issue_s}
    return terms


def _kernel(work: Work, model: DeviceModel, in_flight: Callable[[PartWork], float]) -> Terms:
    """A persistent kernel: launch, page ids up, then bytes at the speed that its blocks reach."""
    needs_upload = not (work.host_ids_on_device and work.device_ids_on_device)
    terms = {"launch and page ids": model.launch_s + (model.upload_s if needs_upload else 0.0)}
    for part in work.parts:
        if part.num_bytes:
            speed, what = _kernel_bps(part, work, model, in_flight(part))
            terms[what] = terms.get(what, 0.0) + part.num_bytes / speed
    return terms


def _kernel_bps(
    part: PartWork, work: Work, model: DeviceModel, bytes_in_flight: float
) -> tuple[float, str]:
    num_sms = min(work.num_sms or default_sms(work.direction, model), model.num_sms)
    is_local = work.direction is Direction.DEVICE_TO_DEVICE
    round_trip_s = model.device_round_trip_s if is_local else model.round_trip_s
    num_ctas = min(num_sms, _useful_blocks(part))
    by_ctas = num_ctas * min(bytes_in_flight / round_trip_s, model.sm_port_bps)
    peak = model.device_copy_bps if is_local else model.engine(work.direction).peak_bps
    limit = peak * _line_share(part)
    if by_ctas < limit:
        return by_ctas, f"what {num_ctas} SMs keep in flight, {by_ctas / 1e9:.3g} GB/s"
    where = "device memory" if is_local else "the link"
    return limit, f"{where} at {limit / 1e9:.3g} GB/s"


def default_sms(direction: Direction, model: DeviceModel) -> int:
    """The quota of a kernel that was given none."""
    return model.num_sms // 4 if direction is Direction.DEVICE_TO_DEVICE else _HOST_SMS


def _useful_blocks(part: PartWork) -> int:
    num_workers = _SHORT_WORKERS if part.run_bytes <= _SHORT_RUN else _LONG_WORKERS
    num_units = part.num_runs * math.ceil(part.run_bytes / _SEGMENT_BYTES)
    return math.ceil(num_units / num_workers)


def _register_bytes_in_flight(part: PartWork) -> float:
    """Of one block of the register kernel: the last round of a run is not full."""
    is_short = part.run_bytes <= _SHORT_RUN
    word = next(size for size in (16, 8, 4, 1) if part.align_bytes % size == 0)
    full = (_SHORT_ROUND if is_short else _LONG_ROUND) * word // 16
    num_workers = _SHORT_WORKERS if is_short else _LONG_WORKERS
    num_rounds = math.ceil(part.run_bytes / full)
    return num_workers * part.run_bytes / num_rounds


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
        speed, _ = _kernel_bps(part, local, model, _register_bytes_in_flight(part))
        kernel_s += part.num_bytes / speed
        each = engine.entry_seconds(num_entries, part.dma_bytes)
        link_s += part.num_bytes / part.dma_bytes * each
    num_chunks = math.ceil(work.num_bytes / model.staging_bytes)
    return {
        "launches and page ids": num_chunks * model.launch_s + model.upload_s,
        "the first chunk on the device": kernel_s / num_chunks,
        "the link" if link_s >= kernel_s else "the kernel": max(link_s, kernel_s),
    }


_TERMS: dict[str, Callable[[Work, DeviceModel], Terms]] = {
    "ce_batch": _ce_batch,
    "staged": _staged,
    "sm_reg": _sm_reg,
    "sm_bulk": _sm_bulk,
    "cpu": _cpu,
    "cpu_ref": _cpu_ref,
}
