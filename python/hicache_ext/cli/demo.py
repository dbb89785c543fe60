"""`hicache demo`: starts the demo's processes, shows how far they are, judges what they report."""

import json
import os
import queue
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.panel import Panel
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from hicache_ext.cli.demo_plan import DemoPlan, fall_back
from hicache_ext.cli.demo_ranks import NUM_RANKS
from hicache_ext.cli.demo_report import Report, print_report, write_report
from hicache_ext.errors import HiCacheError, ModelError
from hicache_ext.integrations.models import resolve_folder
from hicache_ext.integrations.names import GEMMA

Show = Callable[[str, float, float], None]


def run_demo(plan: DemoPlan, *, keep_store: bool = False, console: Console | None = None) -> int:
    """Run every stage; 0 if all equalities hold, 1 if one fails, 2 if a stage could not run."""
    console = console or Console()
    plan.folder.mkdir(parents=True, exist_ok=True)
    begin = time.perf_counter()
    store = Path(tempfile.mkdtemp(prefix="hicache-demo-", dir=plan.folder))
    try:
        with _progress(console) as bars:
            plan = replace(_with_weights(plan, console, _shower(bars)), store=str(store))
            results = _run_stages(plan, _shower(bars))
    except HiCacheError as error:
        console.print(Panel(str(error), title="the demo could not run", style="bold red"))
        return 2
    finally:
        if not keep_store:
            shutil.rmtree(store, ignore_errors=True)
    report = Report(plan, results, time.perf_counter() - begin)
    print_report(report, console)
    for path in write_report(report):
        console.print(f"[dim]saved[/] {path}")
    return 0 if report.passed else 1


def _progress(console: Console) -> Progress:
    return Progress(
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f}%"),
        TimeElapsedColumn(),
        console=console,
    )


def _shower(bars: Progress) -> Show:
    """Shows each new activity as a line of its own; the ones before it are complete."""
    tasks: dict[str, Any] = {}

    def show(what: str, done: float, total: float) -> None:
        if what not in tasks:
            for other in tasks.values():
                bars.update(other, total=1, completed=1)
            tasks[what] = bars.add_task(what)
        bars.update(tasks[what], completed=done, total=total)

    return show


def _with_weights(plan: DemoPlan, console: Console, show: Show) -> DemoPlan:
    """The plan with the model's folder; the small model, loudly, if Gemma cannot be had."""
    try:
        source = resolve_folder(plan.model, lambda stage, f: show(f"weights: {stage}", f, 1))
        return replace(plan, source=source)
    except ModelError as error:
        if plan.model != GEMMA:
            raise
        console.print(
            Panel(
                f"{error}\n\nA small model with RANDOM weights and the same attention pattern runs "
                "instead. Equalities are checked all the same; its times and texts say nothing.",
                title="THE REAL MODEL WAS NOT RUN",
                style="bold white on red",
            )
        )
        return fall_back(plan, str(error))


def _run_stages(plan: DemoPlan, show: Show) -> dict[str, Any]:
    path = plan.save()
    results: dict[str, Any] = {
        stage: _run_processes(plan, path, [[stage]], plan.num_threads, show)[0]
        for stage in ("first", "again")
    }
    ranks = [["rank", str(rank)] for rank in range(NUM_RANKS)]
    threads = max(plan.num_threads // NUM_RANKS, 1)
    path = replace(plan, num_threads=threads).save()
    results["ranks"] = _run_processes(plan, path, ranks, threads, show)
    return results


def _run_processes(
    plan: DemoPlan, path: Path, stages: list[list[str]], num_threads: int, show: Show
) -> list[dict[str, Any]]:
    """Run the workers side by side; HiCacheError with the end of its log if one fails."""
    # Waiting threads sleep instead of spinning: on a busy machine that is up to 4 times faster.
    env = {**os.environ, "OMP_NUM_THREADS": str(num_threads), "OMP_WAIT_POLICY": "PASSIVE"}
    # The workers run this very package, also where it is not installed.
    here = str(Path(__file__).parents[2])
    env["PYTHONPATH"] = os.pathsep.join(filter(None, [here, env.get("PYTHONPATH")]))
    module = "hicache_ext.cli.demo_worker"
    logs = [plan.folder / f"log-{'-'.join(stage)}.txt" for stage in stages]
    workers = []
    for (stage, *more), log in zip(stages, logs, strict=True):
        command = [sys.executable, "-m", module, stage, str(path), *more]
        with log.open("w") as errors:
            workers.append(
                subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=errors, text=True)
            )
    try:
        results = _collect(workers, show)
        for worker, log, result in zip(workers, logs, results, strict=True):
            if worker.wait() or result is None:
                tail = "\n".join(log.read_text().splitlines()[-12:])
                raise HiCacheError(f"{log.stem} ended with {worker.returncode}; {log}:\n{tail}")
    finally:
        for worker in workers:
            worker.kill()
            worker.wait()
    return [result for result in results if result is not None]


def _collect(workers: list[Any], show: Show) -> list[dict[str, Any] | None]:
    """Read the workers' events until all are done or one has failed."""
    events: queue.Queue[tuple[int, str | None]] = queue.Queue()

    def follow(idx: int) -> None:
        for line in workers[idx].stdout:
            events.put((idx, line))
        events.put((idx, None))

    for idx in range(len(workers)):
        threading.Thread(target=follow, args=(idx,), daemon=True).start()
    results: list[dict[str, Any] | None] = [None] * len(workers)
    num_open = len(workers)
    while num_open:
        idx, line = events.get()
        if line is None:
            num_open -= 1
            if results[idx] is None:
                break  # it failed: the others would wait for it
        elif line.startswith("{"):
            event = json.loads(line)
            if "progress" in event:
                show(*event["progress"])
            results[idx] = event.get("result", results[idx])
    return results
