"""The staged executor: who waits for whom, how long its copies are, and its memory."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest
from copy_world import PAGE_BYTES, World, batches, only, spec
from emulated_cuda import emulated_cuda

from hicache_ext import _C
from hicache_ext.copy import Side, StagingRing, make_plan


@pytest.fixture
def cuda() -> Iterator[_C.CudaEmulator]:
    with emulated_cuda(seed=7) as emulator:
        yield emulator


@pytest.fixture
def world(cuda: _C.CudaEmulator) -> World:
    return World(cuda, spec("layer_first"), spec("page_unified"))


CALLER, DMA = "stream=1", "stream=2"  # World has created the one, the ring the other
FILLED, FREE = ("event=0", "event=2"), ("event=1", "event=3")  # of the two slots
PACK = f"launch short_runs {CALLER}"


def steps_of(calls: list[str]) -> list[str]:
    """The calls without sizes, and without what is made for the copy."""
    kept = [call for call in calls if not call.startswith(("create", "allocate", "preload"))]
    return [re.sub(r" (bytes|blocks)=\d+", "", call) for call in kept]


def chunk(slot: int, filler: str, fill: str, emptier: str, empty: str) -> list[str]:
    return [
        f"stream_wait {filler} {FREE[slot]}",
        fill,
        f"record {FILLED[slot]} {filler}",
        f"stream_wait {emptier} {FILLED[slot]}",
        empty,
        f"record {FREE[slot]} {emptier}",
    ]


@pytest.mark.parametrize("direction", ["to_host", "to_device"])
def test_each_slot_waits_for_who_had_it_before(world: World, direction: str) -> None:
    """Five pages through two slots of two: whoever fills a slot waits until it is free, whoever
    empties it until it is full. The DMAs come after what the caller's stream has, and what that
    stream gets later comes after the copy."""
    ring = StagingRing(num_bytes=2 * 2 * PAGE_BYTES)
    world.cuda.take_calls()
    calls = getattr(world, direction)([0, 2, 4, 6, 7], executor="staged", staging=ring)
    expected = [f"copy {CALLER}", f"record {FILLED[0]} {CALLER}", f"stream_wait {DMA} {FILLED[0]}"]
    for slot, num_pages in ((0, 2), (1, 2), (0, 1)):
        move = f"copy_batch {DMA} copies={num_pages} overlap"
        if direction == "to_host":
            expected += chunk(slot, CALLER, PACK, DMA, move)
        else:
            expected += chunk(slot, DMA, move, CALLER, PACK)
    if direction == "to_host":
        expected.append(f"stream_wait {CALLER} {FREE[0]}")
    assert steps_of(calls) == [*expected, f"record event=4 {CALLER}"]


@pytest.mark.parametrize("side", list(Side))
def test_staged_copies_are_as_long_as_the_hosts_layout_allows(world: World, side: Side) -> None:
    """Whatever the order of the plan's runs: page_unified objects are one copy each."""
    there = make_plan(world.device.spec, world.host.spec, ascending=side)
    back = make_plan(world.host.spec, world.device.spec, ascending=side)
    written = world.to_host([0, 2, 5], executor="staged", plan=there)
    loaded = world.to_device([0, 2, 5], executor="staged", plan=back)
    assert batches(written) == batches(loaded) == [(3, 3 * PAGE_BYTES)]


def test_a_device_has_one_ring_of_its_own(world: World) -> None:
    first = world.to_host([0, 1], executor="staged")
    second = world.to_device([2, 3], executor="staged")
    allocated = [
        only(calls, f"allocate_device bytes={_C.STAGING_BYTES}") for calls in (first, second)
    ]
    assert [len(found) for found in allocated] == [1, 0]
