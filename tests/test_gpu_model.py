"""What is known of a GPU, when it is measured, and the copies that measure it."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from auto_pages import Pair
from copy_works import D2D, D2H, H2D
from emulated_cuda import emulated_cuda, pinned

from hicache_ext import _C, auto, device_probe
from hicache_ext.calibration import DeviceFacts, calibrate
from hicache_ext.copy_work import PartWork, Work
from hicache_ext.cost import predict
from hicache_ext.cuda_copy import CUDA_EXECUTORS
from hicache_ext.device_model import PCIE5, DeviceModel
from hicache_ext.device_probe import DeviceProbe, device_facts
from hicache_ext.errors import CudaError
from hicache_ext.model_cache import load_model

FACTS = DeviceFacts("GPU-1", "580 CUDA 13000", "pcie5 x16", sm_version=90, num_sms=132)


@pytest.fixture(autouse=True)
def nothing_known(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(auto, "_devices", {})
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))


@pytest.fixture
def cuda() -> Iterator[_C.CudaEmulator]:
    with emulated_cuda(num_sms=132) as emulator:
        yield emulator


class Machine:
    """In the place of DeviceProbe: measures as a machine with a slower link than published."""

    num_made = 0
    error: Exception | None = None

    def __init__(self, device: int) -> None:
        Machine.num_made += 1
        if self.error is not None:
            raise self.error

    def __call__(self, executor: str, work: Work) -> float:
        slow = replace(PCIE5, to_device=replace(PCIE5.to_device, peak_bps=20e9))
        return predict(work, executor, slow).seconds or 0.0


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> type[Machine]:
    class Fresh(Machine):
        pass

    Machine.num_made = 0
    monkeypatch.setattr(auto, "DeviceProbe", Fresh)
    monkeypatch.setattr(auto, "device_facts", lambda device: replace(FACTS, uuid=f"GPU-{device}"))
    return Fresh


def peak_gbps(model: DeviceModel) -> float:
    return model.to_device.peak_bps / 1e9


def test_a_device_is_measured_once(machine: type[Machine], monkeypatch: pytest.MonkeyPatch) -> None:
    model = auto.gpu_model(0)
    assert model.is_measured and peak_gbps(model) == pytest.approx(20, rel=0.01)
    assert auto.gpu_model(0) is model and Machine.num_made == 1
    monkeypatch.setattr(auto, "_devices", {})  # as another process
    assert auto.gpu_model(0) == model and Machine.num_made == 1
    auto.gpu_model(1)
    assert Machine.num_made == 2
    assert load_model(replace(FACTS, uuid="GPU-0")) == model


def test_threads_that_ask_together_measure_once(machine: type[Machine]) -> None:
    seen: list[DeviceModel] = []
    threads = [threading.Thread(target=lambda: seen.append(auto.gpu_model())) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert Machine.num_made == 1 and len({id(model) for model in seen}) == 1


def test_nothing_is_measured_in_a_capture(machine: type[Machine]) -> None:
    assert not auto._known(0, may_measure=False).model.is_measured
    assert Machine.num_made == 0
    assert auto._known(0, may_measure=True).model.is_measured
    assert auto._known(0, may_measure=False).model.is_measured


def test_the_first_copy_measures_unless_it_is_captured(
    cuda: _C.CudaEmulator, machine: type[Machine]
) -> None:
    pair = Pair(cuda, 4096)
    cuda.begin_capture(pair.stream)
    pair.chosen()
    assert Machine.num_made == 0
    cuda.end_capture(pair.stream)
    pair.chosen()
    pair.chosen()
    assert Machine.num_made == 1


def test_published_figures_where_there_is_no_memory(
    machine: type[Machine], caplog: pytest.LogCaptureFixture
) -> None:
    machine.error = CudaError("out of memory")
    with caplog.at_level(logging.WARNING):
        model = auto.gpu_model(0)
    assert not model.is_measured and peak_gbps(model) == 55
    assert "cuda:0 is not measured, published figures stand in: out of memory" in caplog.text
    auto.gpu_model(0)
    assert Machine.num_made == 1  # not again and again
    assert load_model(replace(FACTS, uuid="GPU-0")) is None


def test_an_emulator_keeps_no_time(cuda: _C.CudaEmulator) -> None:
    assert device_facts(0) is None
    model = auto.gpu_model(0)
    assert not model.is_measured and (model.sm_version, model.num_sms) == (90, 132)


@pytest.mark.parametrize("executor", CUDA_EXECUTORS)
def test_probes_copy_what_they_say(cuda: _C.CudaEmulator, executor: str) -> None:
    """Page i to page n-1-i, on all sides; no two runs may be merged into one."""
    hosts: list[np.ndarray] = []

    def host(num_bytes: int) -> np.ndarray:
        hosts.append(pinned(cuda, np.arange(num_bytes // 4, dtype=np.int32).view(np.uint8)))
        return hosts[-1]

    probe = DeviceProbe(0, host)
    cuda.take_calls()
    work = Work(H2D, (PartWork(8, 1, 4096, 16),), num_sms=1)
    assert probe(executor, work) > 0
    calls = cuda.take_calls()
    if executor == "ce_batch":
        assert sum("copies=8 bytes=32768" in call for call in calls) == 3, calls
    hosts[0][: 8 * 4096] = 0
    probe(executor, replace(work, direction=D2H))
    pages = hosts[0][: 8 * 4096].view(np.int32).reshape(8, 1024)
    assert (pages.ravel() == np.arange(8 * 1024)).all()
    if executor != "staged":
        assert probe(executor, replace(work, direction=D2D)) > 0


def test_a_probe_takes_as_long_as_its_copy(
    cuda: _C.CudaEmulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The best of three, and each until it is done."""
    waits = iter([0.02, 0.005, 0.03])

    class Ticket:
        def wait(self) -> None:
            time.sleep(next(waits))

    monkeypatch.setattr(device_probe, "start_on_stream", lambda *args: Ticket())
    probe = DeviceProbe(0, lambda num_bytes: pinned(cuda, np.zeros(num_bytes, np.uint8)))
    assert 0.005 <= probe("sm_reg", Work(H2D, (PartWork(1, 1, 16),))) < 0.02


def test_the_whole_recipe_runs_on_an_emulated_device(cuda: _C.CudaEmulator) -> None:
    """Every probe is a copy that each executor takes; the figures are those of the emulator."""
    probe = DeviceProbe(0, lambda num_bytes: pinned(cuda, np.zeros(num_bytes, np.uint8)))
    model = calibrate(FACTS, probe, CUDA_EXECUTORS)
    assert model.is_measured and model.bulk_op_s != PCIE5.bulk_op_s
    assert len(model.to_host.speeds) == len(model.to_host.entry_bytes) > 0
