"""The storage benchmarks run in their short form; their figures are not judged here."""

import shutil
from pathlib import Path

import pytest
from mooncake_tools import need_mooncake

from benchmarks import (
    bench_keys,
    bench_store,
    store_demo,
    store_engine,
    store_mooncake,
    store_segment,
)
from benchmarks.harness import Table
from benchmarks.store_yardsticks import LmdbPages, PageFiles


def test_bench_keys_runs() -> None:
    table = bench_keys.main(quick=True)
    assert len(table.rows) == 2 * len(bench_keys.PAGE_SIZES) and table.num_targets == 7
    assert all(row.figure > 0 for row in table.rows)


def test_bench_store_has_every_part(monkeypatch, capsys) -> None:
    there = {path.stem for path in Path(bench_store.__file__).parent.glob("store_*.py")}
    helpers = {"store_pages", "store_yardsticks"}
    assert {f"store_{name}" for name in bench_store.PARTS} == there - helpers
    monkeypatch.setattr(store_demo, "fio_s", lambda *_, **__: 1.0)
    table = bench_store.main(quick=True, parts=("demo", "none"))
    assert [row.target for row in table.rows] == [2.0, None, 1.5, 1.3, 1.0, 1.0]
    assert "without none: " in capsys.readouterr().err


def test_store_segment_runs(monkeypatch) -> None:
    """With a stand-in for fio, which takes a second to start."""
    monkeypatch.setattr(store_engine, "fio_s", lambda *_, **__: 1.0)
    table = Table("segments")
    store_segment.add_rows(table, quick=True)
    reads = [0.9, None, 5, None, None, None, 0.1, 2, 0.9]
    writes = [0.9, 0.9, None, 5, 0.1]
    assert [row.target for row in table.rows] == [*reads, *writes, 1, 1]
    assert all(row.figure > 0 and row.yardstick > 0 for row in table.rows)


def test_files_and_lmdb_are_read_whole(tmp_path) -> None:
    """The yardsticks bring the bytes of pages, cold or not, and have as many after deletes."""
    page = bytes(range(256)) * 16
    pages = [memoryview(bytearray(page)) for _ in range(3)]
    files = PageFiles(tmp_path / "files", pages, 7)
    lmdb = LmdbPages(tmp_path / "lmdb", pages, 7)
    assert files.replace(2) == 2 * 4096
    for measure in (files.read, files.read_in_place, lmdb.read):
        for target in pages:
            target[:] = bytes(4096)
        assert measure() == 7 * 4096
        num_filled = 1 if measure == lmdb.read else 3
        assert [bytes(target) == page for target in pages].count(True) == num_filled
    for yardstick in (files, lmdb):
        cold = yardstick.cold(lambda: 1.5)
        assert cold() == 1.5 and len(cold.disk_shares) == 1
    lmdb.close()


def test_store_engine_runs() -> None:
    if shutil.which("fio") is None:
        pytest.skip("fio is not installed")
    table = Table("engine")
    store_engine.add_rows(table, quick=True)
    assert [row.target for row in table.rows] == 2 * [0.9, None, None]
    assert all(row.figure > 0 and row.yardstick > 0 for row in table.rows)


def test_store_mooncake_runs() -> None:
    need_mooncake()
    table = Table("Mooncake")
    store_mooncake.add_rows(table, quick=True)
    assert [row.target for row in table.rows] == [0.9] * 4
    assert all(row.figure > 0 and row.yardstick > 0 for row in table.rows)
