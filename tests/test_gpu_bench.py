"""`make gpu` where there is no GPU: its figures, its steps and what it says; on a host in place of
a GPU, so that nothing of it can rot."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import pytest
from build_tools import ROOT, need

from benchmarks import gpu, gpu_sweep
from benchmarks.gpu_decode import Copier, Loss, measure_loss
from benchmarks.gpu_machine import HostMachine
from benchmarks.gpu_sweep import Case, Pages, Result, cases, measure, regret
from hicache_ext.device_model import Direction

H2H = Direction.HOST_TO_HOST
NEEDS_NO_GPU = pytest.mark.skipif(gpu.num_gpus() > 0, reason="there is a GPU")


@NEEDS_NO_GPU
@pytest.mark.parametrize(("args", "rc"), [("", 2), ("--if-present", 0)])
def test_without_a_gpu_it_says_so_in_one_line(args: str, rc: int) -> None:
    command = [need("make"), "-s", "-o", "build", "gpu", f"VENV={sys.prefix}", f"ARGS={args}"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.stdout == "make gpu: no CUDA device on this machine; nothing was run\n"
    assert done.returncode == rc  # make's own code for a command that failed is 2


def test_the_short_form_measures_for_real(tmp_path: Path) -> None:
    report = gpu.measure(HostMachine(1 << 20), tmp_path, quick=True)
    rows = report["sweep"]
    assert isinstance(rows, list)
    assert {row["executor"] for row in rows} == {"memcpy", "auto", "cpu", "cpu_ref"}
    shapes = {(row["run_bytes"], row["num_pages"]) for row in rows}
    assert shapes == {(256, 1), (256, 16), (4096, 1), (4096, 16), (65536, 1)}
    yardsticks = {
        (row["run_bytes"], row["num_pages"]): row["median_s"]
        for row in rows
        if row["executor"] == "memcpy"
    }
    for row in rows:
        yardstick_s = yardsticks[row["run_bytes"], row["num_pages"]]
        assert row["share"] == pytest.approx(yardstick_s / row["median_s"])
        assert row["num_bytes"] == row["num_pages"] * 16 * row["run_bytes"]
        assert row["gbps"] == pytest.approx(row["num_bytes"] / row["median_s"] / 1e9)
    assert {loss["executor"] for loss in report["decode"]} == {"cpu", "cpu_ref"}  # type: ignore[attr-defined]
    assert (tmp_path / "gpu.png").read_bytes().startswith(b"\x89PNG")
    json.dumps(report)


def test_every_contender_moves_the_bytes() -> None:
    """On random bytes: the pages of each executor are those of the source, in reverse."""
    machine = HostMachine(1 << 16)
    machine.arenas(H2H)[0][:] = list(os.urandom(1 << 16))
    case = Case(H2H, 256, 4)
    for executor, num_sms in machine.contenders(H2H):
        machine.arenas(H2H)[1][:] = 0
        assert Pages(machine, case).copy(executor, num_sms) == case.num_bytes == 16384
        src, dst = machine.arenas(H2H)
        for page in range(4):
            for run in range(16):  # layer_first: [kv, layer, page]; page_unified: [page, layer, kv]
                layer, kv = divmod(run, 2)
                at, to = (kv * 8 + layer) * 4 + page, (3 - page) * 16 + run
                assert (dst[to * 256 : to * 256 + 256] == src[at * 256 : at * 256 + 256]).all()


def test_a_contender_that_moves_less_ends_the_sweep(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Pages, "copy", lambda self, executor, num_sms: 16 * 256 - 1)
    with pytest.raises(SystemExit, match="auto: 4095 bytes instead of 4096"):
        measure(HostMachine(1 << 16), Case(H2H, 256, 1), num_rounds=1)


def test_cases_fit_into_the_arenas() -> None:
    machine = HostMachine(1 << 16)
    found = list(cases(machine, [256, 4096, 8192], [1, 16]))
    assert [(case.run_bytes, case.num_pages) for case in found] == [(256, 1), (256, 16), (4096, 1)]
    assert max(case.num_bytes for case in found) == machine.arena_bytes


def test_share_and_regret() -> None:
    """Of the memcpy beside it; of auto against the best of the others."""
    line = Result("d", 256, 1, 4096, "memcpy", None, 1.0, 1.0, 1.0, 1.0)
    results = []
    for pages, auto_s in ((1, 2.0), (2, 3.0), (3, 6.0)):
        for executor, seconds in (("memcpy", 0.1), ("auto", auto_s), ("a", 4.0), ("b", 2.0)):
            results.append(replace(line, num_pages=pages, executor=executor, median_s=seconds))
    assert regret(results) == pytest.approx(0.5)
    assert Loss("d", "a", None, alone_s=2.0, beside_s=3.0, copy_gbps=1.0).share == 0.5


def test_decode_beside_copies() -> None:
    loss = measure_loss(HostMachine(8 << 20), Case(H2H, 4096, 8), ("cpu", None), num_rounds=3)
    assert loss.alone_s > 0 and loss.beside_s > 0 and loss.copy_gbps > 0


def test_an_error_of_the_copying_thread_is_raised() -> None:
    def copy() -> int:
        raise RuntimeError("the copy failed")

    with pytest.raises(RuntimeError, match="the copy failed"), Copier(copy):
        pass


def tool(folder: Path, name: str, script: str) -> Path:
    path = folder / name
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return path


def test_sanitizer_runs_the_tests_and_is_believed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tool(tmp_path, "compute-sanitizer", f'echo "$@" > {tmp_path}/said; echo "$SAYS"; exit $CODE')
    monkeypatch.setenv("PATH", str(tmp_path))
    for code, says, passed in (
        ("0", "17 passed, 3 deselected in 8.01s", True),
        ("9", "17 passed in 8.01s", False),
        ("0", "17 passed, 1 skipped in 8.01s", False),
        ("0", "========= ERROR SUMMARY: 0 errors", False),
    ):
        monkeypatch.setenv("CODE", code)
        monkeypatch.setenv("SAYS", says)
        assert gpu.sanitize("racecheck").passed is passed, says
    said = (tmp_path / "said").read_text()
    assert said.startswith("--tool racecheck --error-exitcode 9")
    assert "-m pytest" in said and "tests/test_copy_conformance.py" in said


def test_a_missing_sanitizer_is_no_success(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.setenv("CUDA_HOME", str(tmp_path))
    step = gpu.sanitize("memcheck")
    assert not step.passed and "no compute-sanitizer" in step.said


def test_one_failed_step_fails_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu, "measure", lambda machine, out, quick: {"sweep": []})
    monkeypatch.setattr(gpu, "num_gpus", lambda: 4)
    for broken in (None, "memcheck", "cpu_ref", 4):
        for step in ("conformance", "sanitize", "nccl"):
            monkeypatch.setattr(gpu, step, lambda name, b=broken: gpu.Step(name != b, name))
        report = gpu.run_all(tmp_path, True, lambda: HostMachine(1 << 16))
        assert report["passed"] is (broken is None)
        names = ["conformance of cpu", "conformance of cpu_ref", "memcheck", "racecheck"]
        names += ["NCCL, 1 ranks", "NCCL, 4 ranks"]
        assert list(report["steps"]) == names  # type: ignore[call-overload]


def test_a_step_runs_the_suite_and_wants_no_skip() -> None:
    """On an executor of the CPU it passes; where a test skips, or none is there, it does not."""
    step = gpu.conformance("cpu_ref and test_odd")
    assert step.passed and "passed" in step.said
    assert not gpu.conformance("no_such_executor").passed
    skips = "import pytest\ndef test_one(): pass\ndef test_two(): pytest.skip()\n"
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "test_skips.py")
        path.write_text(skips)
        assert not gpu.run_tests([*command, path]).passed
        assert gpu.run_tests([*command, path, "-k", "one"]).passed


def test_a_step_finds_the_runtime_of_the_toolkit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_HOME", "/opt/cuda")
    monkeypatch.setenv("LD_LIBRARY_PATH", "/opt/other")
    script = "import os; print('1 passed in 0.01s', os.environ['LD_LIBRARY_PATH'])"
    step = gpu.run_tests([sys.executable, "-c", script])
    assert step == (True, "1 passed in 0.01s /opt/cuda/lib64:/opt/other")


def test_what_is_swept() -> None:
    assert (ROOT / gpu.CONFORMANCE).exists()
    assert gpu.RUN_SIZES[0] == 256 and gpu.RUN_SIZES[-1] == 2 << 20
    assert gpu_sweep.RUNS_PER_PAGE * gpu.RUN_SIZES[-1] <= 32 << 20  # a page fits a staging slot
