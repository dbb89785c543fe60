"""The detector's benchmark runs in its short form; its figures are not judged here."""

from benchmarks import bench_detector


def test_bench_detector_runs() -> None:
    table = bench_detector.main(quick=True)
    assert table.num_targets == len(table.rows) == 2
    assert all(row.figure > 0 for row in table.rows)
