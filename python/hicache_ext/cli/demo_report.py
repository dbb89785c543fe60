"""What the demo found: checks, figures against their targets, a table, a PNG and a JSON file."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from hicache_ext.cli.demo_plan import DemoPlan
from hicache_ext.integrations.names import SMALL
from hicache_ext.tier import Tier


@dataclass(frozen=True)
class Figure:
    """A measured ratio and what it must reach at most; told, not judged: machines are busy."""

    name: str
    value: float
    target: float

    @property
    def reached(self) -> bool:
        return self.value <= self.target

    def told(self) -> str:
        """The figure in words."""
        verdict = "reached" if self.reached else "MISSED"
        return f"{self.name}: {self.value:.3f}, target {self.target:.3f} {verdict}"


class Report:
    """Everything that the stages sent, and the verdict."""

    def __init__(self, plan: DemoPlan, results: dict[str, Any], total_s: float) -> None:
        self.plan, self.results, self.total_s = plan, results, total_s
        first, again, ranks = results["first"], results["again"], results["ranks"]
        self.rows: list[dict[str, Any]] = [
            *first["rows"],
            *again["rows"],
            *(row for rank in ranks for row in rank["rows"]),
        ]
        self.checks = self._checks(first, again, ranks)
        self.figures = self._figures()
        self.peak_bytes = max(
            first["peak_bytes"], again["peak_bytes"], sum(rank["peak_bytes"] for rank in ranks)
        )

    @property
    def passed(self) -> bool:
        return all(self.checks.values())

    def _checks(self, first: Any, again: Any, ranks: list[Any]) -> dict[str, bool]:
        checks = {f"{row['name']}: logits equal, bit for bit": row["equal"] for row in self.rows}
        for name, equal in {**first["pages_equal"], **again["pages_equal"]}.items():
            checks[f"{name}: every restored page has the bytes it had"] = equal
        shared = self.plan.num_tokens
        for row, tier in ((self.find("L2"), Tier.HOST), (self.find("L3"), Tier.STORAGE)):
            checks[f"{row['name']}: {shared} tokens restored"] = (
                row["num_hit_tokens"][tier.name] == shared
            )
        same = [rank["same_on_all_ranks"] for rank in ranks]
        for what in same[0]:
            checks[f"ranks: the same {what}"] = all(s[what] == same[0][what] for s in same)
        checks["ranks: something was lost, and said so"] = bool(same[0]["losses"])
        for rank in ranks:
            name = rank["rows"][0]["name"].split(",")[0]
            checks[f"{name}: fell back to {rank['expected_fall_back']} tokens"] = (
                rank["fell_back_to"] == rank["expected_fall_back"]
            )
        return checks

    def _figures(self) -> list[Figure]:
        if self.plan.source == SMALL:
            return []  # a forward pass of it is no work: ratios say nothing
        cold = self.find("cold")["prefill_s"]
        figures = []
        for tier, target in (("L3", 1 / 20), ("L2", 1 / 25)):
            ratio = self.find(tier)["first_token_s"] / cold
            figures.append(Figure(f"first token from {tier} / cold prefill", ratio, target))
        times = [t for t in self.results["again"]["restore_against_dd"] if t["dd_s"]]
        if times:
            restore_s, dd_s = (median(t[name] for t in times) for name in ("restore_s", "dd_s"))
            name = "restore from L3 / dd of one file of the same bytes"
            figures.append(Figure(name, restore_s / dd_s, 2.0))
        return figures

    def find(self, name: str) -> dict[str, Any]:
        """The first row whose name begins so."""
        return next(row for row in self.rows if row["name"].startswith(name))

    def as_dict(self) -> dict[str, Any]:
        """Plain JSON."""
        return {
            "plan": asdict(self.plan),
            "passed": self.passed,
            "checks": self.checks,
            "figures": [{**asdict(f), "reached": f.reached} for f in self.figures],
            "rows": self.rows,
            "results": self.results,
            "peak_bytes": self.peak_bytes,
            "total_s": self.total_s,
        }


HEADINGS = ("tokens hit in", "L1", "L2", "L3", "restore", "prefill", "1st token", "moved", "equal")


def cells(row: dict[str, Any]) -> tuple[str, ...]:
    """One row of the table as text; see HEADINGS. Hits in tokens, moved = L3 to L2 + L2 to L1."""
    return (
        row["name"],
        *(str(row["num_hit_tokens"][tier.name]) for tier in Tier),
        f"{row['restore_s'] * 1e3:.0f} ms",
        f"{row['prefill_s']:.2f} s",
        f"{row['first_token_s']:.2f} s",
        f"{(row['read_bytes'] + row['copied_bytes']) / 2**20:.0f} MiB",
        "yes" if row["equal"] else f"NO, {row['max_difference']:.1e}",
    )


def _title(plan: DemoPlan) -> str:
    model = "random weights" if plan.source == SMALL else plan.model
    return f"{model}, {plan.num_tokens} tokens of document, pages of {plan.page_size}, float32, CPU"


def print_report(report: Report, console: Console) -> None:
    """The answers, the table, the figures and every check that failed."""
    first = report.results["first"]
    for question, text in zip(first["questions"], first["texts"], strict=False):
        console.print(f"[bold]{question}[/]\n  {' '.join(text.split())}", highlight=False)
    plan = report.plan
    table = Table(title=_title(plan), box=box.SIMPLE_HEAD, show_edge=False, padding=(0, 1, 0, 0))
    for heading in HEADINGS:
        table.add_column(
            heading, justify="left" if heading == HEADINGS[0] else "right", no_wrap=True
        )
    for row in report.rows:
        table.add_row(*cells(row), style=None if row["equal"] else "bold red")
    console.print(table)
    for figure in report.figures:
        console.print(figure.told())
    console.print(f"{report.total_s:.0f} s, peak memory {report.peak_bytes / 2**30:.1f} GiB")
    failed = [name for name, passed in report.checks.items() if not passed]
    for name in failed:
        console.print(f"[bold red]FAILED[/] {name}")
    if not failed:
        console.print(f"[bold green]all {len(report.checks)} checks hold[/]")
    if plan.fallback:
        console.print("[bold white on red] THE REAL MODEL WAS NOT RUN: random weights [/]")


def write_report(report: Report) -> list[Path]:
    """demo.json and demo.png in the plan's folder."""
    folder = report.plan.folder
    (folder / "demo.json").write_text(json.dumps(report.as_dict(), indent=2))
    _draw(report, folder / "demo.png")
    return [folder / "demo.json", folder / "demo.png"]


def _draw(report: Report, path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    num_rows = len(report.rows)
    figure, (bars, text) = pyplot.subplots(
        2, 1, figsize=(11, 1.5 + 0.75 * num_rows), height_ratios=[1.15, 1], layout="constrained"
    )
    _draw_bars(bars, report)
    text.axis("off")
    table = text.table(
        [cells(row) for row in report.rows],
        colLabels=HEADINGS,
        cellLoc="right",
        colWidths=[0.2, *[0.06] * 3, *[0.1] * (len(HEADINGS) - 4)],
        bbox=[0, 0.12, 1, 0.88],
    )
    table.auto_set_font_size(False)
    table.set_fontsize(9)
    for (line, column), cell in table.get_celld().items():
        cell.set_edgecolor("#dddddd")
        if line and not report.rows[line - 1]["equal"]:
            cell.set_facecolor("#f5b7b1")
        elif column == 0 or line == 0:
            cell.set_text_props(weight="bold")
    told = [figure.told() for figure in report.figures]
    told.append("all checks hold" if report.passed else "CHECKS FAILED")
    text.text(
        0, 0.06, "\n".join(told), verticalalignment="top", fontsize=8, transform=text.transAxes
    )
    figure.savefig(path, dpi=130)
    pyplot.close(figure)


def _draw_bars(bars: Any, report: Report) -> None:
    rows = report.rows[::-1]
    names = [row["name"] for row in rows]
    restore = [row["restore_s"] for row in rows]
    prefill = [row["prefill_s"] for row in rows]
    bars.barh(names, restore, color="#3b7dd8", label="restore (L3, L2 to L1)")
    bars.barh(names, prefill, left=restore, color="#e0a030", label="prefill")
    for idx, row in enumerate(rows):
        bars.text(row["first_token_s"], idx, f" {row['first_token_s']:.2f} s", va="center")
    bars.set_xlabel("seconds to the first token")
    bars.margins(x=0.12)
    bars.legend(loc="center right")
    bars.spines[["top", "right"]].set_visible(False)
    bars.set_title(_title(report.plan))
