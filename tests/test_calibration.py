"""Calibration against machines that are imagined: it finds their numbers, and it is remembered."""

from __future__ import annotations

import json
import os
import random
from dataclasses import replace
from pathlib import Path

import pytest
from copy_works import D2D, D2H, H2D, seconds

from hicache_ext.calibration import SCRATCH_BYTES, DeviceFacts, calibrate
from hicache_ext.copy_work import PartWork, Work
from hicache_ext.cost import EXECUTORS, choose, predict
from hicache_ext.device_link import link_of
from hicache_ext.device_model import (
    C2C,
    KIB,
    PCIE4,
    PCIE5,
    CopyEngine,
    DeviceModel,
    cliff_engine,
)
from hicache_ext.model_cache import VERSION, cache_file, load_model, save_model

FACTS = DeviceFacts("GPU-1234/5", "13000", "pcie5", sm_version=90, num_sms=132)
ON_GPU = tuple(name for name in EXECUTORS if name not in ("cpu", "cpu_ref"))

# Machines unlike the published ones: a copy engine whose cliff lies elsewhere, a long round trip.
_ODD = cliff_engine(40e9)
ODD = replace(
    PCIE5,
    name="a machine unlike the published ones",
    to_device=replace(_ODD, entry_bytes=tuple(size // 2 for size in _ODD.entry_bytes)),
    to_host=replace(cliff_engine(50e9), call_s=40e-6),
    on_device=CopyEngine(400e9),
    round_trip_s=7e-6,
    device_copy_bps=0.1e12,
    launch_s=9e-6,
)


class Machine:
    """Measures by predicting with a model that calibration does not know, and notes the time."""

    def __init__(self, truth: DeviceModel, noise: float = 0.0) -> None:
        self.truth, self.noise = truth, noise
        self.rng = random.Random(5)
        self.total_s = 0.0

    def __call__(self, executor: str, work: Work) -> float:
        assert work.num_bytes <= SCRATCH_BYTES
        seconds = predict(work, executor, self.truth).seconds
        assert seconds is not None
        self.total_s += seconds
        return seconds * self.rng.uniform(1, 1 + self.noise)


def works(rng: random.Random, num: int) -> list[Work]:
    """Copies as servers make them, none of them a probe."""
    found = []
    for _ in range(num):
        run_bytes = rng.choice(
            [256, 1024, 3 * KIB, 12 * KIB, 20 * KIB, 40 * KIB, 96 * KIB, 1 << 20]
        )
        part = PartWork(rng.choice([1, 8, 100, 1000]), rng.choice([1, 2, 64]), run_bytes, 16)
        found.append(Work(rng.choice([H2D, D2H, D2D]), (part,), slot_bytes=64 << 20))
    return found


@pytest.mark.parametrize("truth", [PCIE4, PCIE5, C2C, ODD], ids=lambda model: str(model.name))
def test_it_finds_the_machine(truth: DeviceModel) -> None:
    """Predictions of the measured model are those of the machine, also between the probes."""
    facts = replace(FACTS, sm_version=truth.sm_version, num_sms=truth.num_sms)
    executors = [name for name in ON_GPU if name != "sm_bulk" or truth.sm_version >= 90]
    model = calibrate(facts, Machine(truth), executors)
    assert model.is_measured and model.name.endswith(", measured")
    ratios = sorted(
        seconds(work, name, model) / seconds(work, name, truth)
        for work in works(random.Random(1), 300)
        for name in executors
        if name != "staged" or work.direction is not D2D
    )
    # A cliff between two probes looks like a slope.
    assert 1 / 3 < ratios[0] <= ratios[-1] < 3
    assert 0.85 < ratios[len(ratios) // 20] <= ratios[-len(ratios) // 20] < 1.2


def test_entries_cost_what_they_cost_here() -> None:
    """Not the published 0.6 us, where the CPU is faster."""
    truth = replace(PCIE5, to_device=CopyEngine(55e9, entry_s=0.1e-6))
    model = calibrate(FACTS, Machine(truth), ["ce_batch"])
    many = Work(H2D, (PartWork(10_000, 1, 4 * KIB),))
    assert seconds(many, "ce_batch", model) == pytest.approx(1e-3, rel=0.05)


def test_a_measured_model_chooses_as_the_machine_would() -> None:
    """On a machine unlike the published one; published figures lose there by more."""
    model = calibrate(FACTS, Machine(ODD, noise=0.05), ON_GPU)
    assert lost_by(PCIE5) > 1.2
    assert lost_by(model) < 1.05


def lost_by(model: DeviceModel) -> float:
    """Time on ODD by the choices of `model` over that of the best choices, on average."""
    ratios = []
    for work in works(random.Random(2), 300):
        chosen = choose(work, model).executor
        able = [name for name in ON_GPU if name != "staged" or work.direction is not D2D]
        times = {name: seconds(work, name, ODD) for name in able}
        ratios.append(times[str(chosen)] / min(times.values()))
    return sum(ratios) / len(ratios)


@pytest.mark.parametrize("truth", [PCIE4, PCIE5, C2C], ids=lambda model: str(model.name))
def test_three_rounds_take_less_than_half_a_second(truth: DeviceModel) -> None:
    machine = Machine(replace(truth, sm_version=90))
    calibrate(FACTS, machine, ON_GPU)
    assert 0.01 < 3 * machine.total_s < 0.5


def test_noise_makes_no_nonsense() -> None:
    """Times that do not grow with the bytes, as on a machine that was busy with something else."""
    rng = random.Random(3)
    model = calibrate(FACTS, lambda executor, work: rng.choice([5e-6, 9e-6]), ON_GPU)
    for engine in (model.to_device, model.to_host):
        assert all(speed > 0 for row in engine.speeds for speed in row)
    assert choose(Work(H2D, (PartWork(10, 2, 4096),)), model).executor in ON_GPU


@pytest.mark.parametrize(
    ("speed", "width", "is_coherent", "link"),
    [
        ("32.0 GT/s PCIe\n", "16\n", False, "pcie5 x16"),
        ("16.0 GT/s PCIe\n", "8\n", False, "pcie4 x8"),
        ("32.0 GT/s PCIe\n", "16\n", True, "c2c"),
        ("Unknown\n", "16\n", False, "unknown"),
        ("", "16\n", False, "unknown"),
        (None, None, False, "unknown"),
    ],
)
def test_link(
    tmp_path: Path, speed: str | None, width: str | None, is_coherent: bool, link: str
) -> None:
    folder = tmp_path / "0000:3b:00.0"
    if speed is not None and width is not None:
        folder.mkdir()
        (folder / "max_link_speed").write_text(speed)
        (folder / "current_link_width").write_text(width)
    assert link_of("0000:3B:00.0", is_coherent, tmp_path) == link


def test_it_measures_only_what_is_there() -> None:
    asked = []

    def measure(executor: str, work: Work) -> float:
        asked.append(executor)
        return Machine(PCIE5)(executor, work)

    model = calibrate(FACTS, measure, ["sm_reg"])
    assert set(asked) == {"sm_reg"}
    assert model.to_device == PCIE5.to_device  # published, since there was nothing to measure


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path


def test_saved_models_come_back(cache: Path) -> None:
    model = calibrate(FACTS, Machine(ODD), ON_GPU)
    assert load_model(FACTS) is None
    save_model(FACTS, model)
    assert load_model(FACTS) == model
    assert [path.suffix for path in (cache / "hicache_ext").iterdir()] == [".json"]  # no leftovers
    save_model(FACTS, PCIE4)
    assert load_model(FACTS) == PCIE4


@pytest.mark.parametrize(
    "other", [{"uuid": "GPU-6"}, {"driver": "13010"}, {"link": "pcie4"}, {"num_sms": 66}]
)
def test_another_device_driver_or_link_is_measured_anew(cache: Path, other: dict) -> None:
    save_model(FACTS, PCIE5)
    assert load_model(replace(FACTS, **other)) is None
    # A file that was renamed or copied from another machine is no better.
    foreign = replace(FACTS, **other)
    os.replace(cache_file(FACTS), cache_file(foreign))
    assert load_model(foreign) is None


def damages() -> list[object]:
    def edit(**changes: object):
        return lambda saved: json.dumps(saved | changes)

    def edit_model(**changes: object):
        return lambda saved: json.dumps(saved | {"model": saved["model"] | changes})

    def edit_engine(**changes: object):
        return lambda saved: json.dumps(
            saved | {"model": saved["model"] | {"to_device": saved["model"]["to_device"] | changes}}
        )

    return [
        lambda saved: "",
        lambda saved: json.dumps(saved)[:-20],
        lambda saved: "[]",
        lambda saved: "\x00\x01",
        edit(version=VERSION + 1),
        edit(model={}),
        edit(model=None),
        edit_model(launch_s=-1.0),
        edit_model(round_trip_s=float("nan")),
        edit_model(device_copy_bps=0),
        edit_model(host=7),
        edit_model(color="red"),
        edit_engine(peak_bps=0.0),
        edit_engine(peak_bps=float("inf")),
        edit_engine(speeds=[[1e9]]),
        edit_engine(counts="many"),
    ]


@pytest.mark.parametrize("damage", damages())
def test_a_damaged_file_is_measured_anew(cache: Path, damage) -> None:
    save_model(FACTS, PCIE5)
    path = cache_file(FACTS)
    path.write_text(damage(json.loads(path.read_text())))
    assert load_model(FACTS) is None
    save_model(FACTS, PCIE5)
    assert load_model(FACTS) == PCIE5


def test_bytes_that_are_no_text(cache: Path, caplog: pytest.LogCaptureFixture) -> None:
    save_model(FACTS, PCIE5)
    cache_file(FACTS).write_bytes(b"\xff\xfe\xff")
    assert load_model(FACTS) is None
    assert "measuring the device again" in caplog.text


def test_a_folder_that_cannot_be_written(cache: Path, caplog: pytest.LogCaptureFixture) -> None:
    (cache / "hicache_ext").write_text("a file where the folder would be")
    save_model(FACTS, PCIE5)
    assert "not kept" in caplog.text
    assert load_model(FACTS) is None


def test_a_relative_cache_folder_is_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "cache")
    assert cache_file(FACTS).parent == Path.home() / ".cache/hicache_ext"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_file(FACTS).parent == Path.home() / ".cache/hicache_ext"
    assert cache_file(FACTS).name == "device-GPU-1234_5-13000-pcie5.json"
