"""How long each executor will take for a copy, and which one `auto` takes.

Nothing here needs a GPU or the native module.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from hicache_ext.copy_work import Work
from hicache_ext.cost_formulas import TERMS
from hicache_ext.device_model import DeviceModel, Direction

EXECUTORS = ("ce_batch", "staged", "sm_reg", "sm_bulk", "cpu", "cpu_ref")  # by preference
_NEAR = 1.1  # predictions this close are no reason to take SMs from the model


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
    if others and best_s > 0:
        other_s, other = min(others, key=lambda pair: pair[0])
        if other_s <= taken_s * _NEAR:
            reasons.append(f"{other.executor} takes about as long")
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
    terms = TERMS[executor](work, model)
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
    if work.has_device_ids:
        return "needs the page ids on the host"
    if executor != "staged":
        return ""
    if work.direction is Direction.DEVICE_TO_DEVICE:
        return "stages only what crosses the link"
    if any(part.num_steps > 1 for part in work.parts):
        return "stages whole pages, these are in order of layers"
    largest = max((part.packed_bytes for part in work.parts), default=0)
    if largest > work.slot_bytes:
        return f"a page of {largest} B does not fit into a staging slot of {work.slot_bytes} B"
    return ""
