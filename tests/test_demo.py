"""`hicache demo` with the small model, whole; its verdicts; what it says without weights."""

import io
import json
from dataclasses import replace

import pytest
from rich.console import Console
from typer.testing import CliRunner

from hicache_ext.cli import demo
from hicache_ext.cli.demo_plan import DemoPlan, make_plan
from hicache_ext.cli.demo_report import Report, print_report, write_report
from hicache_ext.cli.main import app
from hicache_ext.errors import HiCacheError, ModelError


@pytest.fixture(scope="module")
def small_run(tmp_path_factory):
    """The whole small demo, once: five processes, two of them ranks.

    `--out` is relative, as its default is: the ranks once waited for each other at a file:// URL
    that was not the same file.
    """
    out = tmp_path_factory.mktemp("demo")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(out.parent)
        done = CliRunner().invoke(app, ["demo", "--small", "--out", out.name, "--threads", "1"])
    return done, out


def test_small_demo_holds_and_saves(small_run):
    done, out = small_run
    assert done.exit_code == 0, done.output
    found = json.loads((out / "demo.json").read_text())
    assert found["passed"] and len(found["checks"]) >= 20
    hits = {row["name"]: list(row["num_hit_tokens"].values()) for row in found["rows"]}
    assert hits["cold"] == [0, 0, 0]
    assert (hits["L1, question 2"], hits["L2"]) == ([512, 0, 0], [0, 512, 0])
    assert hits["L3, new process"] == [0, 0, 512]
    assert hits["rank 0, page lost"] == hits["rank 1, page lost"] == [128, 0, 0]
    assert (out / "demo.png").read_bytes().startswith(b"\x89PNG")
    assert not list(out.glob("hicache-demo-*")), "the store was left behind"


def report_of(small_run, change=lambda results: None):
    found = json.loads((small_run[1] / "demo.json").read_text())
    results = found["results"]
    change(results)
    return Report(DemoPlan(**found["plan"]), results, 1.0)


def unequal_logits(results):
    results["again"]["rows"][0].update(equal=False, max_difference=0.5)


def wrong_bytes(results):
    results["first"]["pages_equal"]["L2"] = False


def other_tree(results):
    results["ranks"][1]["same_on_all_ranks"]["tree_digest"] += 1


def longer_match(results):
    results["ranks"][0]["fell_back_to"] += 16


def no_hit(results):
    results["again"]["rows"][0]["num_hit_tokens"]["STORAGE"] = 0


@pytest.mark.parametrize("change", [unequal_logits, wrong_bytes, other_tree, longer_match, no_hit])
def test_each_failure_is_told_and_fails_the_demo(small_run, change, monkeypatch, tmp_path):
    assert report_of(small_run).passed
    report = report_of(small_run, change)
    console = Console(file=io.StringIO(), width=100)
    print_report(report, console)
    assert console.file.getvalue().count("FAILED") == 1
    monkeypatch.setattr(demo, "_run_stages", lambda plan, show: report.results)
    plan = make_plan("small", tmp_path)
    assert demo.run_demo(plan, console=console) == 1


def test_figures_of_a_real_model_are_told_and_drawn(small_run, tmp_path):
    """The small model's own times say nothing and are left out."""
    report = report_of(small_run)
    assert report.figures == []
    plan = replace(report.plan, source="some folder", out=str(tmp_path))
    report = Report(plan, report.results, 1.0)
    assert [f.target for f in report.figures] == [1 / 20, 1 / 25, 2.0]
    console = Console(file=io.StringIO(), width=100)
    print_report(report, console)
    assert all(figure.told() in console.file.getvalue() for figure in report.figures)
    assert all(path.stat().st_size > 0 for path in write_report(report))
    found = json.loads((tmp_path / "demo.json").read_text())["figures"]
    assert [f["reached"] for f in found] == [f["value"] <= f["target"] for f in found]


def test_missing_weights_are_told_loudly(small_run, monkeypatch, tmp_path):
    def missing(choice, progress=None):
        raise ModelError("weights package part 1 of 4 is not installed")

    stages = []
    monkeypatch.setattr(demo, "resolve_folder", missing)
    monkeypatch.setattr(
        demo, "_run_stages", lambda plan, show: stages.append(plan) or report_of(small_run).results
    )
    console = Console(file=io.StringIO(), width=100)
    assert demo.run_demo(make_plan("gemma3-270m", tmp_path), console=console) == 0
    told = console.file.getvalue()
    assert told.count("THE REAL MODEL WAS NOT RUN") == 2 and "part 1 of 4" in told
    assert stages[0].source == "small" and "part 1" in stages[0].fallback
    # A model that the user named is not replaced by another one.
    assert demo.run_demo(make_plan("/no/such/folder", tmp_path), console=console) == 2


def test_failing_stage_is_told_with_its_log(tmp_path):
    plan = replace(make_plan("small", tmp_path), source=str(tmp_path / "no-model"))
    with pytest.raises(HiCacheError, match=r"log-first ended with 1.*(?s:.)*no-model"):
        demo._run_processes(plan, plan.save(), [["first"]], 1, lambda *event: None)


def test_document_of_half_a_chunk_is_refused(tmp_path):
    with pytest.raises(ModelError, match="tokens=700 is no multiple of the chunk of 512"):
        make_plan("gemma3-270m", tmp_path, num_tokens=700)
