"""The cost model against published figures: the choice of an executor cannot drift unseen."""

from __future__ import annotations

from dataclasses import replace

import pytest
from copy_works import D2D, D2H, H2D, MIB, bps, runs, seconds

from hicache_ext import cost_formulas
from hicache_ext.copy_work import PartWork, Work
from hicache_ext.cost import choose
from hicache_ext.device_model import C2C, KIB, PCIE5, CopyEngine

# LMCache on an H200 (its design document): max(entries * 0.6 us, bytes / 55 GB/s), no cliff.
LMCACHE = replace(PCIE5, to_device=CopyEngine(55e9, call_s=0.0, entry_s=0.6e-6))


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
    assert cost_formulas._line_share(PartWork(1, 1, 2048, 128)) == 1.0
    assert cost_formulas._line_share(PartWork(1, 1, 576, 64)) == pytest.approx(0.9)
    assert cost_formulas._line_share(PartWork(1, 1, 256, 64)) == pytest.approx(0.667, abs=1e-3)


def test_in_the_device_sms_copy() -> None:
    """Copy engines stay at 87 GiB/s there (NCCL issue 2177)."""
    choice = choose(runs(MIB, 1000, D2D), PCIE5)
    assert choice.executor == "sm_reg"
    assert bps(runs(MIB, 1000, D2D), "ce_batch") == pytest.approx(87 * 2**30, rel=0.01)


def test_legacy_default_stream_takes_no_batches() -> None:
    """2.3 us for each entry, as it is without batches (FlexKV on an H20)."""
    work = runs(4 * KIB, 10_000, D2H, on_null_stream=True)
    assert seconds(work, "ce_batch") == pytest.approx(23e-3, rel=0.01)
    batched = replace(work, on_null_stream=False)
    assert seconds(work, "sm_reg") == seconds(batched, "sm_reg")
    assert seconds(work, "staged") == seconds(batched, "staged")
