"""The texts of Plan.explain() and PlanSet.explain(): what a copy costs, and why one executor."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from build_tools import ROOT

from hicache_ext.copy_part import CopyPart
from hicache_ext.copy_work import PartWork, Work
from hicache_ext.device_model import PCIE4, PCIE5, Direction
from hicache_ext.layout import LayoutSpec, PagedBuffer, Planes
from hicache_ext.plan import make_plan
from hicache_ext.plan_set import PlanSet

H2D, D2H = Direction.HOST_TO_DEVICE, Direction.DEVICE_TO_HOST

# 70B with 8 ranks: one KV head a rank.
SHAPE = dict(page_size=64, num_layers=80, num_heads=1, head_bytes=256)


def spec(name: str, num_pages: int = 128, **changes: int) -> LayoutSpec:
    return LayoutSpec.make(name, num_pages=num_pages, **SHAPE | changes)


def test_explain_a_plan() -> None:
    """The example of the notes: 8k tokens of a 70B model with TP 8."""
    plan = make_plan(spec("layer_first"), spec("page_unified", num_pages=1000))
    text = plan.explain(num_threads=2)
    assert text == plan.explain(128, num_threads=2)
    assert f"{text}\n```" in (ROOT / "docs/executors.md").read_text()
    assert text == plan.explain_runs() + (
        "\n"
        "  cost  335544320 B in 20480 runs; figures of PCIe 5 x16: published, not measured here\n"
        "                      host -> host    host -> device    device -> host  device -> device\n"
        "        ce_batch                 -           53.3 ms           12.3 ms           12.3 ms\n"
        "        staged                   -           53.3 ms           6.19 ms                 -\n"
        "        sm_reg                   -           6.11 ms           6.11 ms            271 us\n"
        "        sm_bulk                  -           6.11 ms           6.11 ms            271 us\n"
        "        cpu                15.4 ms                 -                 -                 -\n"
        "        cpu_ref            46.1 ms                 -                 -                 -\n"
        "  auto  host -> host: cpu; memory at 22 GB/s; cpu_ref would take 3 times as long: "
        "memory at 7.33 GB/s\n"
        "  auto  host -> device: sm_reg; the link at 55 GB/s; sm_bulk takes about as long\n"
        "  auto  device -> host: staged; the link; sm_reg takes about as long\n"
        "  auto  device -> device: sm_reg; device memory at 1.3e+03 GB/s; "
        "sm_bulk takes about as long"
    )


def test_explain_a_set() -> None:
    """Where the memories are known there is one column, and what bounds each time."""
    buffers = {
        name: PagedBuffer(np.zeros(layout.num_bytes, np.uint8), layout)
        for name in ("layer_first", "page_first")
        for layout in [spec(name, num_pages=8, num_layers=2)]
    }
    src, dst = buffers["layer_first"], buffers["page_first"]
    parts = PlanSet([CopyPart(src, [1, 2], dst, [3, 4]), CopyPart(src, [5], dst, [6])])
    first, second = (f"part {i}: {plan.explain_runs()}\n" for i, plan in enumerate(parts.plans))
    measured = replace(PCIE5, name="a box", is_measured=True)
    assert parts.explain(model=measured, num_threads=1) == first + second + (
        "  cost  196608 B in 768 runs; figures of a box: measured here\n"
        "                      host -> host\n"
        "        ce_batch                 -  both sides are on the host\n"
        "        staged                   -  both sides are on the host\n"
        "        sm_reg                   -  both sides are on the host\n"
        "        sm_bulk                  -  both sides are on the host\n"
        "        cpu                29.4 us  memory at 11 GB/s\n"
        "        cpu_ref            38.3 us  memory at 7.33 GB/s\n"
        "  auto  host -> host: cpu; memory at 11 GB/s; cpu_ref would take 1.3 times as long: "
        "memory at 7.33 GB/s"
    )
    assert parts.work(num_threads=3).num_threads == 3
    assert PlanSet([]).explain().endswith("auto  host -> host: cpu; nothing to copy")


def test_explain_nothing() -> None:
    text = make_plan(spec("layer_first"), spec("page_first")).explain(0)
    assert "  cost  0 B in 0 runs;" in text
    assert "  auto  device -> host: ce_batch; nothing to copy\n" in text


def test_explain_for_another_machine() -> None:
    text = make_plan(spec("layer_first"), spec("page_first")).explain(1, model=PCIE4)
    assert "figures of PCIe 4 x16: published" in text
    assert [line.split()[1:] for line in text.splitlines() if "sm_bulk  " in line] == [["-"] * 4]


@pytest.mark.parametrize(
    ("src", "dst", "num_groups", "from_host", "to_host"),
    [
        ("layer_first", "layer_first", 1, 16384, 16384),
        ("layer_first", "page_unified", 1, 16384, 160 * 16384),
        ("page_unified", "layer_first", 1, 160 * 16384, 16384),
        ("layer_first", "page_first", 1, 16384, 80 * 16384),  # K and V are apart
        ("page_first", "page_unified", 1, 80 * 16384, 160 * 16384),
    ],
)
def test_bytes_that_are_contiguous_on_the_host(
    src: str, dst: str, num_groups: int, from_host: int, to_host: int
) -> None:
    """On its side alone; that is what a copy from or to staging moves at once."""
    plan = make_plan(spec(src), spec(dst)).native
    assert PartWork.of_plan(plan, 7, H2D).dma_bytes == from_host
    assert PartWork.of_plan(plan, 7, D2H).dma_bytes == to_host
    part = PartWork.of_plan(plan, 7, Direction.DEVICE_TO_DEVICE)
    assert (part.dma_bytes, part.num_pages) == (plan.run_bytes, 7)
    assert part.align_bytes == plan.align_bytes


def test_a_window_is_contiguous_as_far_as_it_goes() -> None:
    """Half of the layers of a page_unified page in one piece; one head of two in pieces."""
    two = dict(num_heads=2)
    pair = (spec("layer_first", **two), spec("page_unified", **two))
    half = make_plan(*pair, layers=(10, 50)).native
    assert PartWork.of_plan(half, 1, D2H).dma_bytes == 40 * 2 * 64 * 2 * 256
    head = make_plan(*pair, heads=(1, 2)).native
    assert PartWork.of_plan(head, 1, D2H).dma_bytes == 256


class IdsOnGpu:
    """Two int64 page ids of which only the address is ever looked at."""

    shape = (2,)

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        return {"version": 3, "shape": (2,), "typestr": "<i8", "data": (4096, False)}


def test_work_of_a_set() -> None:
    layouts = [spec(name, num_pages=8, num_layers=2) for name in ("layer_first", "page_first")]
    whole = np.zeros(layouts[0].num_bytes + 256, np.uint8)
    begin = -whole.ctypes.data % 128

    def work(src_ids: object, dst_ids: object, misalign: int = 0) -> Work:
        at = begin + misalign
        src, dst = (
            PagedBuffer(array, layout)
            for array, layout in zip(
                (whole[at : at + layouts[0].num_bytes], np.zeros(layouts[1].num_bytes, np.uint8)),
                layouts,
                strict=True,
            )
        )
        part = CopyPart(src, [1], dst, [2])
        return PlanSet([part, CopyPart(src, src_ids, dst, dst_ids)]).work(num_sms=3)

    def lists(copy: Work) -> tuple[bool, bool]:
        return copy.has_host_ids, copy.has_device_ids

    on_host = work([1, 2], [3, 4])
    assert [part.num_pages for part in on_host.parts] == [1, 2] and on_host.num_sms == 3
    assert lists(on_host) == (True, False)
    assert lists(work(IdsOnGpu(), IdsOnGpu())) == (True, True)  # the first part's are on the host
    part = PlanSet([CopyPart(*buffers_of(layouts, IdsOnGpu()))]).work()
    assert lists(part) == (False, True)
    assert [part.align_bytes for part in work([1], [3], misalign=8).parts] == [8, 8]
    assert on_host.parts[0].align_bytes >= 16


def buffers_of(layouts: list[LayoutSpec], ids: object) -> tuple[Any, ...]:
    src, dst = (PagedBuffer(np.zeros(each.num_bytes, np.uint8), each) for each in layouts)
    return src, ids, dst, ids


@pytest.mark.parametrize(("token", "to_host"), [(16, 192), (32, 16)])
def test_planes_of_a_pointer_table_are_apart(token: int, to_host: int) -> None:
    """Tokens go on in a plane, also where the other side has a gap between them."""
    table = {"layer": (3, 0), "kv": (2, 0), "page": (4, 32), "token": (2, 16)}
    one = {
        "page": (4, 12 * token),
        "layer": (3, 4 * token),
        "kv": (2, 2 * token),
        "token": (2, token),
    }
    plan = make_plan(
        LayoutSpec.strided(table, head_bytes=16, planes=Planes.TABLE),
        LayoutSpec.strided(one, head_bytes=16),
    ).native
    assert PartWork.of_plan(plan, 1, H2D).dma_bytes == 32
    assert PartWork.of_plan(plan, 1, D2H).dma_bytes == to_host
