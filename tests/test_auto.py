"""executor="auto": which executor a copy gets."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from auto_pages import Pair
from copy_works import D2D, D2H, H2D
from emulated_cuda import EmulatedArray, emulated_cuda

from hicache_ext import _C, auto, executors
from hicache_ext.copy import copy_pages
from hicache_ext.copy_part import CopyPart
from hicache_ext.copy_work import PartWork, Work
from hicache_ext.cost import choose
from hicache_ext.cuda_copy import Priority, StagingRing
from hicache_ext.device_model import KIB, PCIE5, DeviceModel, Direction
from hicache_ext.layout import LayoutSpec, PagedBuffer
from hicache_ext.plan_set import PlanSet


@pytest.fixture(autouse=True)
def nothing_known(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(auto, "_devices", {})
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))


@pytest.fixture
def cuda() -> Iterator[_C.CudaEmulator]:
    with emulated_cuda(num_sms=132) as emulator:
        yield emulator


@pytest.mark.parametrize(
    ("run_bytes", "direction", "executor"),
    [
        (256, H2D, "sm_reg"),
        (16 * KIB, H2D, "sm_reg"),
        (128 * KIB, H2D, "ce_batch"),
        (128 * KIB, D2H, "ce_batch"),
        (8 * KIB, D2H, "sm_reg"),
    ],
)
def test_the_run_decides(
    cuda: _C.CudaEmulator, run_bytes: int, direction: Direction, executor: str
) -> None:
    assert Pair(cuda, run_bytes).chosen(direction) == executor


def test_it_copies(cuda: _C.CudaEmulator) -> None:
    """By whatever it chose, there and back."""
    for run_bytes, executor in ((512, "sm_reg"), (128 * KIB, "ce_batch")):
        pair = Pair(cuda, run_bytes)
        assert pair.chosen() == executor
        ids = [2, 0, 3]
        copy_pages(pair.on_host, ids, pair.on_device, ids, stream=pair.stream).result()
        before = np.asarray(pair.on_host.array).copy()
        pair.on_host.array[:] = 0  # type: ignore[index]
        copy_pages(pair.on_device, ids, pair.on_host, ids, stream=pair.stream).result()
        pages = np.asarray(pair.on_host.array).reshape(4, -1)
        assert (pages[ids] == before.reshape(4, -1)[ids]).all() and not pages[1].any()


def test_short_runs_that_lie_together_on_the_host_are_staged(cuda: _C.CudaEmulator) -> None:
    """Where they are more than the launches are worth."""
    pair = Pair(cuda, 16 * KIB, num_runs=400)
    assert pair.chosen(D2H) == pair.chosen(H2D) == "staged"
    # A page is 6400 KiB, and fits into a slot.
    for num_bytes, fits in ((2 * 6400 * KIB, True), (2 * 6400 * KIB - 512, False)):
        small = StagingRing(num_bytes=num_bytes)
        assert (pair.chosen(D2H, staging=small) == "staged") is fits


def test_a_capture_gets_a_kernel(cuda: _C.CudaEmulator) -> None:
    pair = Pair(cuda, 128 * KIB)
    assert pair.chosen() == "ce_batch"
    cuda.begin_capture(pair.stream)
    assert pair.chosen() in ("sm_reg", "sm_bulk")
    cuda.end_capture(pair.stream)
    assert pair.chosen() == "ce_batch"


def test_ids_on_the_device_get_a_kernel(cuda: _C.CudaEmulator) -> None:
    pair = Pair(cuda, 128 * KIB)
    ids = EmulatedArray(cuda, np.arange(4))
    assert pair.chosen(ids=ids) in ("sm_reg", "sm_bulk")


def test_the_legacy_stream_gets_no_batch(cuda: _C.CudaEmulator) -> None:
    """Its copies are calls of their own, 2.3 us each; with a priority another stream is used."""
    pair = Pair(cuda, 32 * KIB, num_runs=64)
    assert pair.chosen(D2H) == "ce_batch"
    assert pair.chosen(D2H, stream=0) != "ce_batch"
    assert pair.chosen(D2H, stream=0, priority=Priority.LOW) == "ce_batch"


def test_parts_that_go_several_ways(cuda: _C.CudaEmulator) -> None:
    pair = Pair(cuda, 128 * KIB)
    there = CopyPart(pair.on_host, [0], pair.on_device, [0])
    other = Pair(cuda, 128 * KIB)
    back = CopyPart(other.on_device, [0], other.on_host, [0])
    options = executors.CopyOptions(stream=pair.stream)
    assert executors.choose(PlanSet([there]), options) == "ce_batch"
    assert executors.choose(PlanSet([there, back]), options) == "sm_reg"


def test_on_the_host_it_is_what_the_cost_model_says() -> None:
    for num_pages, run_bytes, num_threads in ((0, 1, 1), (1, 7, 1), (1, 64, 8), (999, 65536, 4)):
        part = PartWork(num_pages, 3, run_bytes, 1)
        work = Work(Direction.HOST_TO_HOST, (part,), num_threads=num_threads)
        assert choose(work, PCIE5).executor == "cpu"
    spec = LayoutSpec.make(
        "layer_first", num_pages=2, page_size=1, num_layers=1, num_heads=1, head_bytes=8
    )
    buffers = [PagedBuffer(np.zeros(spec.num_bytes, np.uint8), spec) for _ in range(2)]
    parts = PlanSet([CopyPart(buffers[0], [0], buffers[1], [1])])
    assert executors.choose(parts, executors.CopyOptions()) == "cpu"


def test_choices_are_remembered_by_what_they_depend_on(
    cuda: _C.CudaEmulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Work] = []

    def fastest(work: Work, model: DeviceModel) -> str:
        asked.append(work)
        return "sm_reg"

    monkeypatch.setattr(auto, "_fastest", fastest)
    pair = Pair(cuda, 4096)
    for options in ({}, {"num_sms": 2}, {"stream": 0}, {"direction": D2H}, {"num_pages": 3}):
        for _ in range(2):
            pair.chosen(**options)
    ids = EmulatedArray(cuda, np.arange(4))
    assert [pair.chosen(ids=ids) for _ in range(2)] == ["sm_reg"] * 2
    cuda.begin_capture(pair.stream)
    assert [pair.chosen() for _ in range(2)] == ["sm_reg"] * 2
    cuda.end_capture(pair.stream)
    assert [work.num_sms for work in asked] == [None, 2, None, None, None, None, None]
    assert [work.on_null_stream for work in asked] == [False, False, True, *[False] * 4]
    assert [work.is_capturing for work in asked] == [*[False] * 6, True]
    rounded = {0: 0, 1: 1, 15: 15, 16: 16, 17: 16, 31: 30, 1 << 20: 1 << 20}
    assert {count: auto._rounded(count) for count in rounded} == rounded


def test_one_plan_in_two_directions(cuda: _C.CudaEmulator, monkeypatch: pytest.MonkeyPatch) -> None:
    """Equal layouts on both sides, aligned to 8 bytes wherever they lie."""
    asked: list[Work] = []
    monkeypatch.setattr(auto, "_fastest", lambda work, model: asked.append(work) or "sm_reg")
    pair, like = Pair(cuda, 4104), Pair(cuda, 4104)
    for dst in (PagedBuffer(like.on_host.array, pair.on_device.spec), like.on_device):
        parts = PlanSet([CopyPart(pair.on_device, [0], dst, [0])])
        executors.choose(parts, executors.CopyOptions(stream=pair.stream))
    assert [work.direction for work in asked] == [D2H, D2D]
    assert asked[0].parts[0].align_bytes == asked[1].parts[0].align_bytes == 8


def test_memory_of_choices_is_bounded(
    cuda: _C.CudaEmulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(auto, "_MAX_CHOICES", 3)
    pair = Pair(cuda, 4096)
    for num_sms in range(1, 9):
        pair.chosen(num_sms=num_sms)
        assert len(auto._devices[0].chosen) <= 3
