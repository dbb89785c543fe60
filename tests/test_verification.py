"""The Spin models hold, find what is done wrong on purpose, and name code that exists."""

import re

import pytest
from build_tools import ROOT, need

from docs.verification.check import GOOD, HERE, MUTANTS, Run, search, verdict

MODELS = {path.stem: path.read_text() for path in HERE.glob("*.pml")}


@pytest.mark.long
@pytest.mark.parametrize("run", GOOD + MUTANTS, ids=str)
def test_search(run: Run) -> None:
    need("spin")
    need("gcc")
    assert verdict(run, search(run)) == ""


def test_verdict_of_a_search_that_was_cut_short() -> None:
    good, mutant = GOOD[0], MUTANTS[0]
    whole = "State-vector 60 byte, depth reached 9, errors: 0"
    assert verdict(good, whole) == ""
    for cut in ("error: max search depth too small", "pan: reached -DMEMLIM bound"):
        assert "not seen whole" in verdict(good, f"{cut}\n{whole}")
    assert "not found" in verdict(mutant, whole)
    assert verdict(mutant, "pan:1: assertion violated (x) (at depth 3)") == ""
    assert "does not hold" in verdict(good, "pan:1: invalid end state (at depth 3)\nerrors: 1")


def test_every_switch_is_searched() -> None:
    searched = {
        (run.model, s.split("=")[0]) for run in GOOD + MUTANTS for s in run.switches.split()
    }
    known = {
        (model, switch)
        for model, text in MODELS.items()
        for switch in re.findall(r"#ifn?def (\w+)", text)
    }
    assert known == searched
    assert {model for model, _ in known} == set(MODELS)


def test_readme_names_steps_and_code_that_exist() -> None:
    rows = re.findall(
        r"^\| `(\w+)\.pml` \| (`.*`) \| `(\S+)`: (.*) \|$", (HERE / "README.md").read_text(), re.M
    )
    assert {model for model, *_ in rows} == set(MODELS)
    for model, steps, file, names in rows:
        code = (ROOT / file).read_text()
        for step in re.findall(r"`(\w+)`", steps):
            assert re.search(rf"(inline|proctype|#define) {step}\b", MODELS[model]), step
        for name in re.findall(r"`([\w:]+)`", names):
            assert re.search(rf"\b{name}\b", code), f"{file}: {name}"
