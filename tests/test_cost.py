"""The cost model: who can, what a copy costs by which of its properties, and the choice."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
from build_tools import ROOT
from copy_works import D2D, D2H, H2D, H2H, MIB, bps, runs, seconds

from hicache_ext import cost_formulas
from hicache_ext.copy_work import SEGMENT_BYTES, PartWork, Work
from hicache_ext.cost import EXECUTORS, choose, predict
from hicache_ext.device_model import KIB, PCIE4, PCIE5, CopyEngine, Direction, default_model


def test_partial_lines_cost_link_time() -> None:
    whole, partial = (
        Work(H2D, (PartWork(1, 10**6, 576, align),), num_sms=20) for align in (128, 1)
    )
    assert bps(whole, "sm_reg") == pytest.approx(55e9 * 576 / 640, rel=0.01)
    assert bps(partial, "sm_reg") == pytest.approx(55e9 * 576 / 768, rel=0.01)


def test_short_words_keep_fewer_bytes_in_flight() -> None:
    blocks = [
        cost_formulas.register_block(PartWork(1, 1, 4096, align)) for align in (16, 8, 4, 2, 1)
    ]
    in_flight = [block.bytes_in_flight / KIB for block in blocks]
    assert in_flight == [64, 32, 16, 4, 4]
    assert cost_formulas.register_block(PartWork(1, 1, 256)).bytes_in_flight == 32 * KIB
    # 4 KiB + 1 B: the second round carries one byte.
    assert cost_formulas.register_block(PartWork(1, 1, 4097)).bytes_in_flight < 33 * KIB


def test_bulk_ring_holds_more_than_registers() -> None:
    """Three of its four slots are on their way; short runs leave shared memory empty."""
    block = cost_formulas._bulk_block(PartWork(1, 1, 64 * KIB))
    assert block == (2, 2 * 3 * 16 * KIB)
    assert cost_formulas._bulk_block(PartWork(1, 1, 256)) == (128, 128 * 3 * 256)


def test_quota_inside_the_device() -> None:
    """A quarter of the SMs by default; none of them passes what its port lets through."""
    work = runs(4 * KIB, 10**6, D2D)
    assert seconds(work, "sm_reg") == seconds(replace(work, num_sms=33), "sm_reg")
    tiny = replace(PCIE5, num_sms=3)
    assert seconds(work, "sm_reg", tiny) == seconds(replace(work, num_sms=1), "sm_reg", tiny)
    one = bps(replace(work, num_sms=1), "sm_reg", replace(PCIE5, device_round_trip_s=0.1e-6))
    assert one == pytest.approx(PCIE5.sm_port_bps, rel=0.01)


def test_staging_hides_the_kernel_or_the_link() -> None:
    """Launches for each of ten chunks, the first gather, then the slower of the two."""
    num_bytes = 10 * (32 << 20)
    part = PartWork(10, num_bytes // 10 // 4096, 4096, host_run_bytes=num_bytes // 10)
    work, fixed_s = Work(D2H, (part,)), 10 * PCIE5.launch_s + PCIE5.upload_s
    kernel_s, link_s = num_bytes / PCIE5.device_copy_bps, num_bytes / 55e9 + 5e-6
    assert seconds(work, "staged") == pytest.approx(fixed_s + kernel_s / 10 + link_s)
    slow_s = num_bytes / 20e9
    slow = replace(PCIE5, device_copy_bps=20e9)
    assert seconds(work, "staged", slow) == pytest.approx(fixed_s + slow_s / 10 + slow_s)
    # What the copy engine sees are the objects on the host, not the runs of the kernel.
    small = Work(H2D, (PartWork(16, 6, 4 * KIB, host_run_bytes=24 * KIB),))
    each = PCIE5.to_device.entry_seconds(16, 24 * KIB)
    assert seconds(small, "staged") == pytest.approx(18e-6 + 16 * each, rel=0.05)


def test_reason_names_what_bounds_both() -> None:
    work, executors = runs(16 * KIB, 20_480), ("ce_batch", "sm_reg")
    assert choose(work, PCIE5, executors).reason == (
        "the link at 55 GB/s; ce_batch would take 8.7 times as long: "
        "the copy engine: 6.3 GB/s with entries of 16384 B"
    )
    near = "the link at 55 GB/s; sm_reg takes about as long"
    assert choose(runs(MIB, 1000), PCIE5, executors).reason == near
    on_host = choose(runs(MIB, 64, H2H, num_threads=4), PCIE5)
    assert on_host.reason.startswith("memory at 44 GB/s; cpu_ref would take 6 times")
    fastest_other = choose(runs(8 * KIB, 10**5, D2H), PCIE5).reason
    assert fastest_other.endswith("sm_bulk takes about as long")


def test_on_the_host_threads_are_worth_their_waking() -> None:
    large, small = runs(2 * KIB, 1_000_000, H2H, num_threads=2), runs(256, 4, H2H, num_threads=2)
    assert choose(large, PCIE5).executor == choose(small, PCIE5).executor == "cpu"
    # Two threads, and stores that do not read the line first; a small copy wakes nobody.
    assert seconds(large, "cpu_ref") / seconds(large, "cpu") == pytest.approx(2.93, rel=0.01)
    assert seconds(small, "cpu_ref") - seconds(small, "cpu") == pytest.approx(1024 / 22e9)
    short, long = runs(256, 8_000, H2H), runs(2_048, 1_000, H2H)
    assert 0.5 < bps(short, "cpu") / bps(long, "cpu") < 0.75
    middle = runs(2 * KIB, 2048, H2H, num_threads=2)
    host = PCIE5.host
    by_two = 4 * MIB / 22e9 + 2048 * host.run_s / 2 + host.wake_s
    assert seconds(middle, "cpu") == pytest.approx(by_two)
    many = replace(large, num_threads=64)
    assert bps(many, "cpu") == pytest.approx(PCIE5.host.memory_bps, rel=0.02)


@pytest.mark.parametrize(
    ("options", "refused"),
    [
        ({}, {"cpu", "cpu_ref"}),
        ({"is_capturing": True}, {"cpu", "cpu_ref", "ce_batch", "staged"}),
        ({"has_device_ids": True}, {"cpu", "cpu_ref", "ce_batch", "staged"}),
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


def test_ids_on_the_device_need_no_upload() -> None:
    there = runs(4 * KIB, 10, has_host_ids=False, has_device_ids=True)
    mixed = replace(there, has_host_ids=True)
    assert seconds(mixed, "sm_reg") - seconds(there, "sm_reg") == pytest.approx(PCIE5.upload_s)


def test_a_page_has_to_fit_into_a_staging_slot() -> None:
    """Pages lie there in multiples of 16 bytes."""
    fits = Work(D2H, (PartWork(9, 1, 64), PartWork(9, 3, 80)), slot_bytes=240)
    assert predict(fits, "staged", PCIE5).seconds is not None
    refused = predict(replace(fits, slot_bytes=239), "staged", PCIE5)
    assert refused.limit == "a page of 240 B does not fit into a staging slot of 239 B"
    odd = Work(D2H, (PartWork(9, 1, 65),), slot_bytes=79)
    assert predict(odd, "staged", PCIE5).seconds is None
    assert predict(replace(odd, slot_bytes=80), "staged", PCIE5).seconds is not None


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


def test_no_entry_is_faster_than_the_link() -> None:
    table = dict(entry_bytes=(4 * KIB,), counts=(1,), speeds=((50e9,),))
    assert CopyEngine(10e9, **table).entry_bps(1, 4 * KIB) == 10e9  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="of 1 sizes and 2 counts"):
        CopyEngine(10e9, **table | {"counts": (1, 2)})  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="DeviceModel: launch_s=-1"):
        replace(PCIE5, launch_s=-1)


def test_default_model_keeps_the_device_it_is_for() -> None:
    model = default_model("pcie4 x16", sm_version=120, num_sms=170)
    assert (model.name, model.sm_version, model.num_sms) == ("PCIe 4 x16", 120, 170)
    assert not model.is_measured and model.to_device == PCIE4.to_device
    assert default_model("carrier pigeon", 90, 132) == PCIE5


def test_kernel_numbers_are_those_of_the_kernels() -> None:
    """cost.py needs no native module, so it repeats them."""
    header = (ROOT / "csrc/include/hicache/copy_worker.h").read_text()
    shape = r"struct {}RunShape {{\s*static constexpr int kLanes = (\d+), kUnroll = (\d+), kThreads"
    for name, round_bytes, num_workers in (
        ("Short", cost_formulas._SHORT_ROUND, cost_formulas._SHORT_WORKERS),
        ("Long", cost_formulas._LONG_ROUND, cost_formulas._LONG_WORKERS),
    ):
        found = re.search(shape.format(name) + r" = (\d+)", header)
        assert found is not None
        lanes, unroll, threads = map(int, found.groups())
        assert (lanes * unroll * 16, threads // lanes) == (round_bytes, num_workers)
    assert f"kShortRun = {cost_formulas._SHORT_RUN};" in header
    assert f"kSegmentBytes = {SEGMENT_BYTES};" in header
    ring = (ROOT / "csrc/include/hicache/copy_ring.h").read_text()
    assert f"kRingStages = {cost_formulas._RING_STAGES};" in ring
    assert f"kRingThreads = {cost_formulas._MAX_RINGS};" in ring
    assert f"kRingBytes = {cost_formulas._RING_BYTES // 1024} * 1024;" in ring
