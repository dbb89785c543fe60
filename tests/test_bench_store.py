"""The storage benchmarks run in their short form; their figures are not judged here."""

import shutil

import pytest
from mooncake_tools import need_mooncake

from benchmarks import bench_keys, bench_store, store_engine, store_mooncake
from benchmarks.harness import Table


def test_bench_keys_runs() -> None:
    table = bench_keys.main(quick=True)
    assert len(table.rows) == 2 * len(bench_keys.PAGE_SIZES) and table.num_targets == 7
    assert all(row.figure > 0 for row in table.rows)


def test_bench_store_runs() -> None:
    table = bench_store.main(quick=True)
    assert [row.target for row in table.rows] == [2.0, None, 1.5, 1.0, 1.0]


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
