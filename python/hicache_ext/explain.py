"""What a copy will cost, as text for people."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from hicache_ext.copy_work import Work
from hicache_ext.cost import EXECUTORS, choose
from hicache_ext.device_model import DeviceModel

_UNITS = ((1.0, "s"), (1e-3, "ms"), (1e-6, "us"))


def explain_cost(
    works: Sequence[Work], model: DeviceModel, available: Collection[str] = EXECUTORS
) -> str:
    """Predicted time of each executor for copies of the same pages, and what `auto` would take.

    works: the same copy between one or several pairs of memories, a column each; "-" where an
    executor cannot. With one column, what bounds each time or why it cannot stands beside it.
    """
    choices = [choose(work, model, available) for work in works]
    source = "measured here" if model.is_measured else "published, not measured here"
    num_runs = sum(part.num_runs for part in works[0].parts)
    lines = [
        f"  cost  {works[0].num_bytes} B in {num_runs} runs; figures of {model.name}: {source}",
        _row("", [work.direction.value for work in works]),
    ]
    for i, name in enumerate(EXECUTORS):
        row = _row(name, [_time(choice.predictions[i].seconds) for choice in choices])
        lines.append(f"{row}  {choices[0].predictions[i].limit}" if len(works) == 1 else row)
    for work, choice in zip(works, choices, strict=True):
        lines.append(f"  auto  {work.direction.value}: {choice.executor}; {choice.reason}")
    return "\n".join(lines)


def _row(head: str, cells: Sequence[str]) -> str:
    return f"        {head:<8}" + "".join(f"{cell:>18}" for cell in cells)


def _time(seconds: float | None) -> str:
    if seconds is None:
        return "-"
    size, unit = next((pair for pair in _UNITS if seconds >= pair[0]), _UNITS[-1])
    return f"{seconds / size:.3g} {unit}"
