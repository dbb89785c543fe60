"""`hicache doctor` on machines that lack something, and on this one."""

import ctypes.util
from importlib import metadata
from pathlib import Path

from typer.testing import CliRunner

from hicache_ext.cli.doctor import Fact, diagnose, report
from hicache_ext.cli.main import app


def facts(folder: Path) -> dict[str, Fact]:
    return {fact.name: fact for fact in diagnose(folder)}


def test_every_rung_can_be_forced_and_is_told(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("HICACHE_IO", "threads")
    monkeypatch.setenv("HICACHE_O_DIRECT", "0")
    found = facts(tmp_path)
    assert found["I/O engine"].value == "threads: asked for"
    assert found["I/O buffers"].value.startswith("plain: ")
    assert found[f"O_DIRECT in {tmp_path}"].value == "no: HICACHE_O_DIRECT=0"
    assert found[f"O_DIRECT in {tmp_path}"].remedy != ""
    monkeypatch.delenv("HICACHE_O_DIRECT")
    assert facts(tmp_path)[f"O_DIRECT in {tmp_path}"].value != "no: HICACHE_O_DIRECT=0"


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    fact = facts(tmp_path / "none")["O_DIRECT"]
    assert str(tmp_path / "none") in fact.value and "writ" in fact.remedy


def test_what_is_missing_comes_with_its_package(tmp_path: Path, monkeypatch) -> None:
    def not_installed(package: str) -> str:
        if package == "xxhash":
            raise metadata.PackageNotFoundError
        return "1.0"

    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr(ctypes.util, "find_library", lambda name: None)
    monkeypatch.setattr(metadata, "version", not_installed)
    lines = ['xxhash; extra == "storage"', "torch>=2.6", 'msgspec; extra == "events"']
    monkeypatch.setattr(metadata, "requires", lambda name: lines)
    found = facts(tmp_path)
    assert "fio" in found["fio"].remedy and found["fio"].value == "missing"
    assert "libibverbs1" in found["libibverbs"].remedy
    assert found["extra storage"].value == "without xxhash"
    assert "hicache_ext[storage]" in found["extra storage"].remedy
    assert found["extra events"] == Fact("extra events", "there")


def test_the_report_shows_remedies_below(tmp_path: Path) -> None:
    assert report([Fact("a", "1", "do"), Fact("long", "2")]) == "a     1\n      -> do\nlong  2"
    done = CliRunner().invoke(app, ["doctor", "--folder", str(tmp_path)])
    assert done.exit_code == 0
    for name in ("CUDA", "I/O engine", "memlock", "huge pages", "checksum", "extra cli"):
        assert f"\n{name}" in f"\n{done.output}"


def test_an_unknown_engine_is_refused(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("HICACHE_IO", "smoke")
    done = CliRunner().invoke(app, ["doctor", "--folder", str(tmp_path)])
    assert done.exit_code != 0 and "HICACHE_IO=smoke" in str(done.exception)
