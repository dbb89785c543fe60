"""order=RunOrder.LAYERS: layer 0 of all pages is there before layer 1 begins."""

from __future__ import annotations

import numpy as np
import pytest
from copy_world import PAGE_BYTES, World, batches, only, spec
from emulated_cuda import emulated_cuda

from hicache_ext.copy import (
    CopyPart,
    PlanSet,
    RunOrder,
    copy_pages,
    copy_set,
    make_plan,
)
from hicache_ext.errors import LayoutError

LAYERS = dict(order=RunOrder.LAYERS)
NAMES = ("layer_first", "page_first", "page_unified")


@pytest.mark.parametrize("device", NAMES)
@pytest.mark.parametrize("host", NAMES)
def test_runs_end_with_their_layer(device: str, host: str) -> None:
    plan = make_plan(spec(host), spec(device), **LAYERS)
    assert plan.axes[0].name == "layer" and plan.axes[0].extent == 4
    assert plan.native.num_steps == 4 and plan.order is RunOrder.LAYERS
    assert "order all pages of a layer, then of the next; 4 layers" in plan.explain()
    one = make_plan(spec(host), spec(device), layers=(2, 3), **LAYERS)
    assert one.native.num_steps == 1 and "order" not in one.explain_runs()


@pytest.mark.parametrize("executor", ["sm_reg", "sm_bulk"])
@pytest.mark.parametrize("num_whole", [1, 2])
def test_a_launch_has_eight_layers(executor: str, num_whole: int) -> None:
    """20 layers are three launches. With the launch after num_whole of them failing and the rest
    not waited for, the layers before it are there on every page."""
    sizes = dict(num_layers=20)
    with emulated_cuda(fail_work=1 + num_whole) as cuda:  # work 0 is the upload of page ids
        world = World(cuda, spec("layer_first", **sizes), spec("page_unified", **sizes))
        world.on_device.fill(0)
        ticket = copy_pages(
            world.host,
            [3, 1, 6],
            world.device,
            [0, 1, 2],
            executor=executor,
            stream=world.stream,
            **LAYERS,
        )
        assert len(only(cuda.take_calls(), "launch")) == 3
        cuda.run_all()
        there = world.pages(world.device)[:3] == world.pages(world.host)[[3, 1, 6]]
        by_layer = there.all(axis=(0, 2, 3, 4, 5))
        failed = range(8 * num_whole, min(8 * num_whole + 8, 20))
        assert [i for i in range(20) if not by_layer[i]] == list(failed)
        del ticket


def test_copy_engines_get_a_batch_for_each_layer() -> None:
    """Copies of one batch may overtake each other."""
    with emulated_cuda() as cuda:
        world = World(cuda, spec("layer_first"), spec("page_unified"))
        calls = world.to_device([5, 0, 2], executor="ce_batch", **LAYERS)
        assert batches(calls) == [(6, 3 * PAGE_BYTES // 4)] * 4


def test_parts_take_turns() -> None:
    """Layer 0 of every part comes before layer 1 of any; a part in order of pages comes first."""
    with emulated_cuda() as cuda:
        world = World(cuda, spec("layer_first"), spec("page_unified"))
        plan = make_plan(world.host.spec, world.device.spec, **LAYERS)
        pages = make_plan(world.host.spec, world.device.spec)
        parts = PlanSet(
            [
                CopyPart(world.host, [5], world.device, [0], plan),
                CopyPart(world.host, [1, 2], world.device, [1, 2], plan),
                CopyPart(world.host, [7], world.device, [7], pages),
            ]
        )
        cuda.take_calls()
        ticket = copy_set(parts, executor="ce_batch", stream=world.stream)
        sizes = [num_bytes for _, num_bytes in batches(cuda.take_calls())]
        layer = PAGE_BYTES // 4
        # What is joined with a part in order of pages goes with the layer after it.
        assert sizes == [layer, 2 * layer, PAGE_BYTES + layer, 2 * layer, *[layer, 2 * layer] * 2]
        assert ticket.result() == 4 * PAGE_BYTES
        moved = world.pages(world.device)[[0, 1, 2, 7]], world.pages(world.host)[[5, 1, 2, 7]]
        np.testing.assert_array_equal(*moved)


def test_what_has_no_order_of_layers() -> None:
    with emulated_cuda() as cuda:
        world = World(cuda, spec("layer_first"), spec("page_unified"))
        ids, stream = [0], world.stream
        with pytest.raises(LayoutError, match=r"staged moves whole pages.*part=0 is in order"):
            copy_pages(
                world.host, ids, world.device, ids, executor="staged", stream=stream, **LAYERS
            )
        plan = make_plan(world.host.spec, world.device.spec)
        with pytest.raises(LayoutError, match=r"order=RunOrder\.LAYERS beside a plan"):
            copy_pages(world.host, ids, world.device, ids, plan=plan, **LAYERS)
        assert (
            copy_pages(world.host, ids, world.device, ids, stream=stream, **LAYERS).result()
            == PAGE_BYTES
        )
