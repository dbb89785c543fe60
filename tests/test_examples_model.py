"""examples/ask_document.py: a second run finds the document on disk and answers the same."""

import re
import runpy
import sys
from pathlib import Path

import pytest

EXAMPLE = Path(__file__).parent.parent / "examples/ask_document.py"
QUESTIONS = ("What is a module?", "What is a class?")


@pytest.mark.parametrize(
    "model",
    ["small", pytest.param("gemma3-270m", marks=[pytest.mark.long, pytest.mark.timeout(1800)])],
)
def test_second_run_reads_the_document_from_disk(
    model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    command = [str(EXAMPLE), f"--model={model}", "--tokens=600", f"--store={tmp_path}"]
    monkeypatch.setattr(sys, "argv", [*command, *(f"--question={text}" for text in QUESTIONS)])
    runs = []
    for _ in range(2):
        runpy.run_path(str(EXAMPLE), run_name="__main__")
        lines = capsys.readouterr().out.splitlines()
        assert lines[::3] == list(QUESTIONS)
        hits = [[int(n) for n in re.findall(r"(\d+) from [A-Z]+", line)] for line in lines[1::3]]
        runs.append((hits, lines[2::3]))
    (cold, answers), (again, same_answers) = runs
    # Of 600 tokens the whole chunk of 512; in the order DEVICE, HOST, STORAGE.
    assert cold == [[0, 0, 0], [512, 0, 0]]
    assert again == [[0, 0, 512], [512, 0, 0]]
    assert answers == same_answers and all(answers)
