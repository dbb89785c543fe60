"""The table that every benchmark ends with: a figure, its yardstick, their ratio, and the target.

A benchmark measures against something that anyone can repeat on the same machine (memcpy, dd, a
cold prefill), never against a number from elsewhere. Both are timed alternately, so that a slow
minute of the machine hits both, and the medians are compared.
"""

import argparse
import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # rich and matplotlib are extras, imported where they are used
    from rich.table import Table as RichTable


class Bound(Enum):
    """On which side of its target a ratio has to stay."""

    AT_LEAST = ">="
    AT_MOST = "<="


@dataclass(frozen=True)
class Sample:
    """What one contender took, in the unit its measure returns (seconds, if it is `timed`)."""

    values: tuple[float, ...]

    @property
    def median(self) -> float:
        return statistics.median(self.values)

    @property
    def p90(self) -> float:
        """Nearest rank: a value that was measured, also of few."""
        return sorted(self.values)[-(-9 * len(self.values) // 10) - 1]


@dataclass(frozen=True)
class Row:
    """One line. `target` bounds ratio = figure / yardstick; None: the line only informs."""

    name: str
    figure: float
    yardstick: float
    unit: str
    target: float | None = None
    bound: Bound = Bound.AT_LEAST
    note: str = ""

    @property
    def ratio(self) -> float:
        return self.figure / self.yardstick

    @property
    def met(self) -> bool | None:
        if self.target is None:
            return None
        at_least = self.bound is Bound.AT_LEAST
        return self.ratio >= self.target if at_least else self.ratio <= self.target


def timed(fn: Callable[[], object]) -> Callable[[], float]:
    """A measure for `interleaved`: one call of `fn`, in seconds."""

    def measure() -> float:
        start = time.perf_counter()
        fn()
        return time.perf_counter() - start

    return measure


def interleaved(
    measures: Mapping[str, Callable[[], float]], *, num_rounds: int = 7, num_warmup: int = 1
) -> dict[str, Sample]:
    """Measure all contenders alternately, A B, B A, A B, ...: drift and order favour none.

    Returns one Sample of `num_rounds` values for each; `num_warmup` rounds before them are dropped.
    """
    if num_rounds < 1 or num_warmup < 0:
        raise ValueError(f"num_rounds={num_rounds} num_warmup={num_warmup}")
    values: dict[str, list[float]] = {name: [] for name in measures}
    for round_idx in range(num_warmup + num_rounds):
        order = list(measures)[:: 1 if round_idx % 2 == 0 else -1]
        for name in order:
            value = measures[name]()
            if round_idx >= num_warmup:
                values[name].append(value)
    return {name: Sample(tuple(taken)) for name, taken in values.items()}


@dataclass
class Table:
    """Collects rows; `finish` shows and saves them and tells whether every target is met."""

    title: str
    rows: list[Row] = field(default_factory=list)

    def add(self, row: Row) -> Row:
        if not row.yardstick > 0 or not row.figure >= 0:
            raise ValueError(f"{row.name}: figure={row.figure} yardstick={row.yardstick}")
        self.rows.append(row)
        return row

    @property
    def num_targets(self) -> int:
        return sum(row.met is not None for row in self.rows)

    @property
    def num_met(self) -> int:
        return sum(row.met is True for row in self.rows)

    def finish(self, out: Path | None = None, stem: str = "bench") -> int:
        """Print the table, write out/stem.json and out/stem.png, and return the exit code.

        1 if a target is missed or if there is none at all: a benchmark that asks nothing proves
        nothing.
        """
        from rich.console import Console

        Console().print(self.render())
        if out is not None:
            out.mkdir(parents=True, exist_ok=True)
            (out / f"{stem}.json").write_text(json.dumps(self.as_dict(), indent=2) + "\n")
            self.plot(out / f"{stem}.png")
        print(f"met {self.num_met} of {self.num_targets} targets")
        return 0 if self.num_met == self.num_targets > 0 else 1

    def render(self) -> "RichTable":
        """The table for a terminal."""
        from rich.table import Table as RichTable

        shown = RichTable(title=self.title)
        shown.add_column("what")
        for heading in ("figure", "yardstick", "ratio", "target"):
            shown.add_column(heading, justify="right")
        shown.add_column("met")
        for row in self.rows:
            target = "" if row.target is None else f"{row.bound.value} {row.target:.3g}"
            word, style = VERDICTS[row.met]
            figures = [f"{value:.4g} {row.unit}" for value in (row.figure, row.yardstick)]
            name = f"{row.name}\n  [dim]{row.note}[/]" if row.note else row.name
            shown.add_row(name, *figures, f"{row.ratio:.3g}", target, f"[{style}]{word}[/]")
        return shown

    def as_dict(self) -> dict[str, object]:
        rows = [
            asdict(row) | {"bound": row.bound.value, "ratio": row.ratio, "met": row.met}
            for row in self.rows
        ]
        return {
            "title": self.title,
            "machine": machine(),
            "num_targets": self.num_targets,
            "num_met": self.num_met,
            "rows": rows,
        }

    def plot(self, path: Path) -> None:
        """One bar per row: its ratio, with its own target as a black mark."""
        import matplotlib

        matplotlib.use("Agg")
        from matplotlib import pyplot as plt

        fig, axes = plt.subplots(figsize=(9, 1.4 + 0.5 * len(self.rows)), layout="constrained")
        for row in self.rows:
            label = f"{row.name}\n{row.figure:.4g} vs {row.yardstick:.4g} {row.unit}"
            bar = axes.barh(label, row.ratio, color=COLORS[row.met])
            axes.bar_label(bar, [f" {row.ratio:.3g}"])
            if row.target is not None:
                spot = len(axes.patches) - 1
                axes.plot([row.target] * 2, [spot - 0.4, spot + 0.4], color="black", linewidth=2)
        axes.invert_yaxis()
        axes.margins(x=0.15)
        axes.set_xlabel("figure / yardstick (black: the target)")
        axes.set_title(f"{self.title}: met {self.num_met} of {self.num_targets}", fontsize=11)
        axes.tick_params(axis="y", labelsize=8)
        fig.savefig(path, dpi=120)
        plt.close(fig)


VERDICTS = {True: ("yes", "green"), False: ("NO", "bold red"), None: ("", "dim")}
COLORS = {True: "#3a9d5d", False: "#c8443c", None: "#8a8f98"}


def machine() -> dict[str, object]:
    """What a reader needs to judge the figures; no names and no paths."""
    model = platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        names = [row for row in cpuinfo.read_text().splitlines() if row.startswith("model name")]
        model = names[0].split(":", 1)[1].strip() if names else model
    cores = len(os.sched_getaffinity(0))
    return {"cpu": model, "num_cores": cores, "python": platform.python_version()}


def parse_args(description: str | None, parts: Sequence[str] = ()) -> argparse.Namespace:
    """The two options that every benchmark has: `quick` (bool) and `out` (a folder, or None). One
    of `parts` also has `only` (some of them; by default all).
    """
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--quick", action="store_true", help="small sizes, to test the benchmark")
    parser.add_argument("--out", type=Path, help="also write a JSON file and a PNG here")
    if parts:
        parser.add_argument("--only", nargs="+", choices=parts, default=list(parts))
    return parser.parse_args()
