"""The cost model against published figures: the choice of an executor cannot drift unseen."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
from build_tools import ROOT

from hicache_ext import cost
from hicache_ext.cost import EXECUTORS, PartWork, Work, choose, predict
from hicache_ext.device_model import C2C, KIB, PCIE4, PCIE5, CopyEngine, Direction, default_model

H2H, H2D = Direction.HOST_TO_HOST, Direction.HOST_TO_DEVICE
D2H, D2D = Direction.DEVICE_TO_HOST, Direction.DEVICE_TO_DEVICE
MIB = 1024 * KIB

# LMCache on an H200 (its design document): max(entries * 0.6 us, bytes / 55 GB/s), no cliff.
LMCACHE = replace(PCIE5, to_device=CopyEngine(55e9, call_s=0.0, entry_s=0.6e-6))


def runs(run_bytes: int, num_runs: int, direction: Direction = H2D, **options: object) -> Work:
    """A copy of one page of num_runs runs; `options` are Work's."""
    return Work(direction, (PartWork(1, num_runs, run_bytes),), **options)  # type: ignore[arg-type]


def seconds(work: Work, executor: str, model: cost.DeviceModel = PCIE5) -> float:
    predicted = predict(work, executor, model).seconds
    assert predicted is not None
    return predicted


def bps(work: Work, executor: str, model: cost.DeviceModel = PCIE5) -> float:
    return work.num_bytes / seconds(work, executor, model)


def test_lmcache_entries_cost_600_ns() -> None:
    assert seconds(runs(4 * KIB, 100_000), "ce_batch", LMCACHE) == pytest.approx(60e-3)
    assert bps(runs(MIB, 1000), "ce_batch", LMCACHE) == pytest.approx(55e9)


@pytest.mark.parametrize(
    ("run_kib", "times"), [(16, (1.8, 2.2)), (4, (7, 8.2)), (34, (0.95, 1.05))]
)
def test_lmcache_kernel_against_entries(run_kib: int, times: tuple[float, float]) -> None:
    """2x faster at 16 KB, 7 to 8x at 4 KB, break-even at 34 KB."""
    work = runs(run_kib * KIB, 100_000)
    ratio = seconds(work, "ce_batch", LMCACHE) / seconds(work, "sm_reg", LMCACHE)
    assert times[0] <= ratio <= times[1]


@pytest.mark.parametrize(
    ("run_kib", "gbps"), [(4, 4.0), (16, 6.3), (24, 6.7), (28, 39.9), (64, 51.4)]
)
def test_vllm_cliff_of_batched_copies_on_h100(run_kib: int, gbps: float) -> None:
    assert bps(runs(run_kib * KIB, 50_000), "ce_batch") == pytest.approx(gbps * 1e9, rel=0.01)


@pytest.mark.parametrize(
    ("run_kib", "num_runs", "executor"),
    [
        (8, 64, "sm_reg"),
        (28, 64, "ce_batch"),
        (24, 4096, "sm_reg"),
        (64, 4096, "ce_batch"),
        (4, 15, "ce_batch"),  # under 16 entries launch and ids dominate
        (24, 15, "ce_batch"),
    ],
)
def test_vllm_crossover_on_h100(run_kib: int, num_runs: int, executor: str) -> None:
    assert choose(runs(run_kib * KIB, num_runs), PCIE5).executor == executor


def test_sglang_one_block_has_64_kib_in_flight() -> None:
    """64 KB / 1.3 us = 48 GB/s a block; 2 blocks 97 GB/s, bulk ring of 4 blocks 192 GB/s D2H."""
    many = runs(4 * KIB, 1_000_000)
    assert bps(replace(many, num_sms=1), "sm_reg", C2C) == pytest.approx(49e9, rel=0.04)
    assert bps(replace(many, num_sms=2), "sm_reg", C2C) == pytest.approx(97e9, rel=0.05)
    ring = runs(64 * KIB, 100_000, D2H, num_sms=4)
    assert bps(ring, "sm_bulk", C2C) == pytest.approx(192e9, rel=0.01)
    assert seconds(ring, "sm_bulk", C2C) <= seconds(ring, "sm_reg", C2C)


def test_70b_tp8_prefix_of_8k_tokens() -> None:
    """335 MB in 20 480 runs of 16 KiB: batch 51 ms, SMs 6.1 ms, staged 6.1 ms + a hidden gather."""
    part = PartWork(128, 160, 16 * KIB, host_run_bytes=160 * 16 * KIB)
    load, store = Work(H2D, (part,)), Work(D2H, (part,))
    assert seconds(load, "ce_batch") == pytest.approx(52e-3, rel=0.03)
    assert seconds(load, "sm_reg") == pytest.approx(6.1e-3, rel=0.02)
    assert seconds(store, "ce_batch") == pytest.approx(12.3e-3, rel=0.01)  # the CPU's part
    assert seconds(store, "staged") == pytest.approx(6.2e-3, rel=0.02)
    assert choose(store, PCIE5).executor == "staged"
    # A load of one layer, as load-back does them, has nothing to gather into large copies.
    layer = PartWork(128, 2, 16 * KIB)
    assert choose(Work(H2D, (layer,)), PCIE5).executor == "sm_reg"


def test_line_share_of_reads_over_the_link() -> None:
    """2 KiB aligned 1.0, 576 B aligned to 64 0.9, 256 B that begin 64 bytes into a line 0.67."""
    assert cost._line_share(PartWork(1, 1, 2048, 128)) == 1.0
    assert cost._line_share(PartWork(1, 1, 576, 64)) == pytest.approx(0.9)
    assert cost._line_share(PartWork(1, 1, 256, 64)) == pytest.approx(0.667, abs=1e-3)


def test_short_words_keep_fewer_bytes_in_flight() -> None:
    in_flight = [
        cost._register_bytes_in_flight(PartWork(1, 1, 4096, align)) for align in (16, 8, 4, 2, 1)
    ]
    assert in_flight == [64 * KIB, 32 * KIB, 16 * KIB, 4 * KIB, 4 * KIB]
    assert cost._register_bytes_in_flight(PartWork(1, 1, 256)) == 32 * KIB


def test_in_the_device_sms_copy() -> None:
    """Copy engines stay at 87 GiB/s there (NCCL issue 2177)."""
    choice = choose(runs(MIB, 1000, D2D), PCIE5)
    assert choice.executor == "sm_reg"
    assert bps(runs(MIB, 1000, D2D), "ce_batch") == pytest.approx(87 * 2**30, rel=0.01)


def test_on_the_host_threads_are_worth_their_waking() -> None:
    large, small = runs(2 * KIB, 1_000_000, H2H, num_threads=2), runs(256, 4, H2H, num_threads=2)
    assert choose(large, PCIE5).executor == choose(small, PCIE5).executor == "cpu"
    assert seconds(large, "cpu_ref") / seconds(large, "cpu") == pytest.approx(2, rel=0.01)
    assert seconds(small, "cpu_ref") == seconds(small, "cpu")
    short, long = runs(256, 8_000, H2H), runs(2_048, 1_000, H2H)
    assert 0.5 < bps(short, "cpu") / bps(long, "cpu") < 0.75
    many = replace(large, num_threads=64)
    assert bps(many, "cpu") == pytest.approx(PCIE5.host.memory_bps, rel=0.02)


@pytest.mark.parametrize(
    ("options", "refused"),
    [
        ({}, {"cpu", "cpu_ref"}),
        ({"is_capturing": True}, {"cpu", "cpu_ref", "ce_batch", "staged"}),
        ({"host_ids_on_device": True}, {"cpu", "cpu_ref", "ce_batch", "staged"}),
        ({"device_ids_on_device": True}, {"cpu", "cpu_ref", "ce_batch"}),
        ({"direction": H2H}, {"ce_batch", "staged", "sm_reg", "sm_bulk"}),
        ({"direction": D2D}, {"cpu", "cpu_ref", "staged"}),
    ],
)
def test_who_cannot(options: dict[str, object], refused: set[str]) -> None:
    work = replace(runs(64 * KIB, 1000), **options)  # type: ignore[arg-type]
    choice = choose(work, PCIE5)
    cannot = {p.executor: p.limit for p in choice.predictions if p.seconds is None}
    assert set(cannot) == refused and all(cannot.values())
    assert choice.executor not in refused


def test_bulk_ring_needs_sm_90_and_16_bytes() -> None:
    assert predict(runs(4096, 10), "sm_bulk", PCIE4).limit == "needs sm_90, this is sm_80"
    odd = Work(H2D, (PartWork(1, 9, 4096), PartWork(1, 9, 4104, align_bytes=8)))
    assert predict(odd, "sm_bulk", PCIE5).limit == "needs runs aligned to 16 B, these are to 8 B"
    assert predict(replace(odd, parts=odd.parts[:1]), "sm_bulk", PCIE5).seconds is not None


def test_capture_never_takes_the_copy_engine() -> None:
    work = runs(8 * MIB, 100)
    assert choose(work, PCIE5).executor == "ce_batch"
    assert choose(replace(work, is_capturing=True), PCIE5).executor == "sm_reg"


def test_none_can() -> None:
    choice = choose(runs(4096, 10), PCIE5, available=("cpu", "cpu_ref"))
    assert choice.executor is None
    assert {p.limit for p in choice.predictions} >= {"not in this build"}
    assert choose(runs(4096, 10), PCIE5, available=("cpu", "sm_reg")).executor == "sm_reg"


def test_zero_pages_cost_nothing() -> None:
    for direction in Direction:
        choice = choose(Work(direction, (PartWork(0, 4, 4096),)), PCIE5)
        assert choice.executor is not None
        assert {p.seconds for p in choice.predictions} == {0.0, None}
    assert choose(Work(H2D, ()), PCIE5).executor is not None


@pytest.mark.parametrize("direction", list(Direction))
@pytest.mark.parametrize("executor", EXECUTORS)
def test_more_bytes_never_take_less_time(executor: str, direction: Direction) -> None:
    for run_bytes in (1, 16, 256, 576, 4096, 16 * KIB, 64 * KIB, 2 * MIB):
        taken = [
            predict(runs(run_bytes, num, direction), executor, PCIE5).seconds
            for num in (1, 10, 300, 10_000, 1_000_000)
        ]
        if taken[0] is not None:
            assert taken == sorted(taken), run_bytes  # type: ignore[type-var]
            assert min(taken) > 0  # type: ignore[type-var]


def test_parts_add_up() -> None:
    one, two = PartWork(10, 64, 16 * KIB), PartWork(10, 4, 37_440, 32)
    for executor in ("sm_reg", "ce_batch", "staged"):
        both = seconds(Work(H2D, (one, two)), executor)
        apart = seconds(Work(H2D, (one,)), executor) + seconds(Work(H2D, (two,)), executor)
        assert 0.9 * apart < both < 1.001 * apart, executor  # one call, but of more entries


def test_quota_bounds_the_speed() -> None:
    slow, fast = (runs(4096, 100_000, num_sms=num) for num in (1, 2))
    assert seconds(slow, "sm_reg") > 1.05 * seconds(fast, "sm_reg")
    assert seconds(runs(4096, 100_000, num_sms=99), "sm_reg") == seconds(
        runs(4096, 100_000, num_sms=4), "sm_reg"
    )


def test_default_model_keeps_the_device_it_is_for() -> None:
    model = default_model("pcie4", sm_version=120, num_sms=170)
    assert (model.name, model.sm_version, model.num_sms) == ("PCIe 4 x16", 120, 170)
    assert not model.is_measured and model.to_device == PCIE4.to_device
    assert default_model("carrier pigeon", 90, 132) == PCIE5


def test_kernel_numbers_are_those_of_the_kernels() -> None:
    """cost.py needs no native module, so it repeats them."""
    header = (ROOT / "csrc/include/hicache/copy_worker.h").read_text()
    shape = r"struct {}RunShape {{\s*static constexpr int kLanes = (\d+), kUnroll = (\d+), kThreads"
    for name, round_bytes, num_workers in (
        ("Short", cost._SHORT_ROUND, cost._SHORT_WORKERS),
        ("Long", cost._LONG_ROUND, cost._LONG_WORKERS),
    ):
        found = re.search(shape.format(name) + r" = (\d+)", header)
        assert found is not None
        lanes, unroll, threads = map(int, found.groups())
        assert (lanes * unroll * 16, threads // lanes) == (round_bytes, num_workers)
    assert f"kShortRun = {cost._SHORT_RUN};" in header
    assert f"kSegmentBytes = {cost._SEGMENT_BYTES};" in header
