"""The benchmark table: what it counts as met, what it writes, and that timing alternates."""

import json
import time
from collections.abc import Callable

import pytest

from benchmarks.harness import Bound, Row, Sample, Table, interleaved, timed


def test_interleaved_alternates_and_drops_the_warm_up() -> None:
    calls: list[str] = []

    def contender(name: str) -> Callable[[], float]:
        def measure() -> float:
            calls.append(name)
            return float(len(calls))

        return measure

    samples = interleaved({"a": contender("a"), "b": contender("b")}, num_rounds=3, num_warmup=1)
    assert calls == ["a", "b", "b", "a", "a", "b", "b", "a"]
    assert samples["a"].values == (4.0, 5.0, 8.0)
    assert samples["b"].values == (3.0, 6.0, 7.0)


def test_interleaved_refuses_nothing_to_measure() -> None:
    with pytest.raises(ValueError, match="num_rounds=0"):
        interleaved({}, num_rounds=0)


def test_sample_statistics() -> None:
    sample = Sample((5.0, 1.0, 2.0, 4.0, 3.0))
    assert sample.median == 3.0
    assert sample.p90 == 5.0
    assert Sample(tuple(float(i) for i in range(1, 21))).p90 == 18.0
    assert Sample((7.0,)).p90 == 7.0


def test_timed_counts_seconds() -> None:
    assert 0.01 <= timed(lambda: time.sleep(0.01))() < 5


@pytest.mark.parametrize(
    ("bound", "figure", "met"),
    [
        (Bound.AT_LEAST, 0.7, True),
        (Bound.AT_LEAST, 0.69, False),
        (Bound.AT_MOST, 0.7, True),
        (Bound.AT_MOST, 0.71, False),
    ],
)
def test_a_target_bounds_the_ratio(bound: Bound, figure: float, met: bool) -> None:
    assert Row("x", figure, 1.0, "GB/s", target=0.7, bound=bound).met is met


def test_finish_tells_a_missed_target(tmp_path, capsys) -> None:
    table = Table("copy")
    table.add(Row("good", 9.0, 10.0, "GB/s", target=0.7))
    table.add(Row("for information", 1.0, 10.0, "GB/s"))
    assert table.finish(tmp_path / "new", "copy") == 0
    assert capsys.readouterr().out.endswith("met 1 of 1 targets\n")
    table.add(Row("bad", 1.0, 10.0, "GB/s", target=0.7, note="why it is slow"))
    assert table.finish(tmp_path / "new", "copy") == 1
    out = capsys.readouterr().out
    assert "why it is slow" in out
    assert out.endswith("met 1 of 2 targets\n")
    saved = json.loads((tmp_path / "new/copy.json").read_text())
    assert [row["met"] for row in saved["rows"]] == [True, None, False]
    assert saved["rows"][0]["ratio"] == pytest.approx(0.9)
    assert (tmp_path / "new/copy.png").read_bytes().startswith(b"\x89PNG")


def test_no_target_is_no_success(capsys) -> None:
    table = Table("empty")
    table.add(Row("information", 1.0, 1.0, "s"))
    assert table.finish() == 1


def test_add_refuses_a_figure_that_cannot_be_compared() -> None:
    with pytest.raises(ValueError, match="yardstick=0"):
        Table("x").add(Row("x", 1.0, 0.0, "s"))
    with pytest.raises(ValueError, match="figure=nan"):
        Table("x").add(Row("x", float("nan"), 1.0, "s"))
