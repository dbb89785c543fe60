"""The storage benchmarks run in their short form; their figures are not judged here."""

import shutil
from pathlib import Path

import pytest
from mooncake_tools import need_mooncake

from benchmarks import bench_keys, bench_store, store_engine, store_mooncake, store_segment
from benchmarks.harness import Table


def test_bench_keys_runs() -> None:
    table = bench_keys.main(quick=True)
    assert len(table.rows) == 2 * len(bench_keys.PAGE_SIZES) and table.num_targets == 7
    assert all(row.figure > 0 for row in table.rows)


def test_bench_store_has_every_part(monkeypatch, capsys) -> None:
    there = {path.stem for path in Path(bench_store.__file__).parent.glob("store_*.py")}
    helpers = {"store_pages", "store_yardsticks"}
    assert {f"store_{name}" for name in bench_store.PARTS} == there - helpers
    monkeypatch.setattr(bench_store, "PARTS", ("demo", "none"))
    table = bench_store.main(quick=True)
    assert [row.target for row in table.rows] == [2.0, None, 1.5, 1.0, 1.0]
    assert "without none: " in capsys.readouterr().err


def test_store_segment_runs(monkeypatch) -> None:
    """With a stand-in for fio, which takes a second to start."""
    monkeypatch.setattr(store_engine, "fio_s", lambda *_, **__: 1.0)
    table = Table("segments")
    store_segment.add_rows(table, quick=True)
    assert [row.target for row in table.rows] == [0.9, 0.9, 5, 5, 0.1, 0.1, 2, 0.9, 1, 1]
    assert all(row.figure > 0 and row.yardstick > 0 for row in table.rows)


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
