"""What `make` looks for before it sets anything up, and what it installs by itself."""

import subprocess
from importlib.util import module_from_spec, spec_from_file_location
from types import ModuleType, SimpleNamespace

import pytest
from build_tools import ROOT


@pytest.fixture
def preflight(monkeypatch) -> ModuleType:
    """The script, on a machine that has all it needs and nothing that is only useful."""
    spec = spec_from_file_location("preflight", ROOT / ".ci/preflight.py")
    assert spec is not None and spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "find_missing", list)
    lacking = {"liburing-dev": "threads", "fio": "no yardstick"}
    monkeypatch.setattr(module, "find_lacking", lambda: dict(lacking))
    monkeypatch.setattr(module.shutil, "which", lambda name: f"/usr/bin/{name}")
    monkeypatch.setattr(module.os, "geteuid", lambda: 0)
    return module


def calls_of(preflight: ModuleType, monkeypatch, result: int | Exception) -> list[list[str]]:
    calls: list[list[str]] = []

    def run(command: list[str], **_: object) -> SimpleNamespace:
        calls.append(command)
        if isinstance(result, Exception):
            raise result
        return SimpleNamespace(returncode=result)

    monkeypatch.setattr(preflight.subprocess, "run", run)
    preflight.main()
    return calls


def test_root_gets_what_is_useful(preflight: ModuleType, monkeypatch, capsys) -> None:
    update, install = calls_of(preflight, monkeypatch, 0)
    assert update[-1] == "update" and install[-2:] == ["liburing-dev", "fio"]
    told = capsys.readouterr().out
    assert "without fio: no yardstick (sudo apt-get install fio)" in told  # apt-get lied


@pytest.mark.parametrize("result", [100, subprocess.TimeoutExpired("apt-get", 1)])
def test_no_network_is_no_failure(preflight: ModuleType, monkeypatch, capsys, result) -> None:
    assert len(calls_of(preflight, monkeypatch, result)) == 1
    assert "without liburing-dev: threads" in capsys.readouterr().out


def test_others_are_only_told(preflight: ModuleType, monkeypatch, capsys) -> None:
    monkeypatch.setattr(preflight.os, "geteuid", lambda: 1000)
    assert calls_of(preflight, monkeypatch, 0) == []
    assert "sudo apt-get install liburing-dev" in capsys.readouterr().out


def test_what_is_needed_stops_make(preflight: ModuleType, monkeypatch) -> None:
    monkeypatch.setattr(preflight, "find_missing", lambda: ["g++"])
    with pytest.raises(SystemExit, match=r"sudo apt-get install g\+\+"):
        calls_of(preflight, monkeypatch, 0)
