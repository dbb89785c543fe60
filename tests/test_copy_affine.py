"""Copies between any two affine layouts, drawn by Hypothesis: every executor, and the planner.

A failure prints the smallest example that fails, and what replays it. The quick tests draw the same
examples each time, the long ones others.
"""

from __future__ import annotations

import random
from dataclasses import replace
from itertools import product

import pytest
from affine_copies import choices, may_be_refused
from copy_cases import Choice, make_case
from copy_executors import EXECUTORS, Executor, check_copy
from hypothesis import given, settings
from hypothesis import strategies as st

from hicache_ext.copy import LayoutSpec, RunOrder, Side
from hicache_ext.errors import LayoutError
from hicache_ext.layout import Planes
from hicache_ext.plan import Plan

QUICK = settings(max_examples=200, deadline=None, derandomize=True, print_blob=True)
LONG = settings(max_examples=2000, deadline=None, print_blob=True)

ON_CPU = [
    executor
    for executor in EXECUTORS
    if executor.name.startswith(("cpu", "emulator")) and not executor.why_not()
]
ON_EMULATED_GPU = [executor for executor in EXECUTORS if executor.name.endswith("-emulated")]

planned = choices().filter(lambda choice: not may_be_refused(choice))
copies = given(
    st.lists(planned, min_size=1, max_size=3),
    st.integers(0, 2**32 - 1),
    st.sampled_from(ON_EMULATED_GPU),
)


def check_set(parts: list[Choice], seed: int, on_gpu: Executor) -> None:
    """All executors of the CPU, all loop bodies of kernels, and one of the emulated GPU."""
    case = make_case(parts, random.Random(seed))
    poison = case.target_arena.copy()
    for executor in [*ON_CPU, on_gpu]:
        if executor.takes(case):
            case.target_arena[:] = poison
            check_copy(case, executor, random.Random(seed))


@QUICK
@copies
def test_executors_move_the_bytes_of_the_oracle(
    parts: list[Choice], seed: int, on_gpu: Executor
) -> None:
    check_set(parts, seed, on_gpu)


@pytest.mark.long
@pytest.mark.timeout(1200)  # half a minute on an idle machine
@LONG
@copies
def test_executors_move_the_bytes_of_the_oracle_for_long(
    parts: list[Choice], seed: int, on_gpu: Executor
) -> None:
    check_set(parts, seed, on_gpu)


Place = tuple[int, int]  # plane, bytes into it


def head_places(spec: LayoutSpec, choice: Choice) -> list[Place]:
    """Where each head of the window lies in the last page, by the strides alone."""
    window, found = choice.window, []
    kv_span = window.kv.value if spec.num_kv == 2 else (0, 1)
    spans = (window.layers, kv_span, window.tokens, window.heads)
    for layer, kv, token, head in product(*(range(*span) for span in spans)):
        group, in_group = divmod(head, spec.num_heads // spec.num_groups)
        offset = (spec.num_pages - 1) * spec.stride_page + token * spec.stride_token
        offset += group * spec.stride_group + in_group * spec.stride_head
        if spec.planes is Planes.TABLE:
            found.append((layer * spec.num_kv + kv, offset))
        else:
            found.append((0, offset + layer * spec.stride_layer + kv * spec.stride_kv))
    return found


def run_places(plan: Plan) -> list[tuple[Place, Place]]:
    """Source and destination of each head of the last pages, run by run."""
    found = []
    for run in range(plan.runs_per_page):
        src, dst = plan.native.locate(plan.src.num_pages - 1, plan.dst.num_pages - 1, run)
        for at in range(0, plan.run_bytes, plan.src.head_bytes):
            found.append(((src[0], src[1] + at), (dst[0], dst[1] + at)))
    return found


@QUICK
@given(planned)
def test_merging_moves_the_same_bytes_and_leaves_nothing_to_merge(choice: Choice) -> None:
    plan, back = choice.plan(), replace(choice, src=choice.dst, dst=choice.src).plan()
    places = run_places(plan)
    unmerged = zip(head_places(plan.src, choice), head_places(plan.dst, choice), strict=True)
    assert sorted(places) == sorted(unmerged)
    assert (plan.run_bytes, plan.runs_per_page) == (back.run_bytes, back.runs_per_page)
    assert all(axis.extent > 1 for axis in plan.axes)
    axes = [axis for axis in plan.axes if choice.order is RunOrder.PAGES or axis.name != "layer"]
    steps = [(0, 0, plan.run_bytes, plan.run_bytes)]  # what the next axis would have to continue
    steps += [tuple(axis.extent * step for step in axis[4:] + axis[2:4]) for axis in axes]
    assert not set(steps) & {axis[4:] + axis[2:4] for axis in axes}
    starts = [at for run in places[:: plan.run_bytes // plan.src.head_bytes] for _, at in run]
    assert not any(at % plan.native.align_bytes for at in [*starts, plan.run_bytes])
    if choice.order is RunOrder.LAYERS:
        num_layers = choice.window.layers[1] - choice.window.layers[0]
        assert plan.native.num_steps == num_layers
    else:
        side = 0 if choice.ascending is Side.SOURCE else 1
        assert [place[side] for place in places] == sorted(place[side] for place in places)


@QUICK
@given(planned.filter(lambda choice: choice.src.num_groups == 1))
def test_heads_that_follow_on_may_be_called_groups(choice: Choice) -> None:
    """Another description of the same bytes is the same plan."""
    src = choice.src
    groups = replace(src, num_groups=src.num_heads, stride_group=src.stride_head)
    plan, same = choice.plan(), replace(choice, src=groups).plan()
    assert (plan.axes, plan.run_bytes) == (same.axes, same.run_bytes)


@QUICK
@given(choices())
def test_no_plan_is_refused_without_a_reason(choice: Choice) -> None:
    """With one there may be a plan nevertheless, as axes merge."""
    try:
        plan = choice.plan()
    except LayoutError as error:
        assert may_be_refused(choice), error
    else:
        assert plan.page_bytes == choice.window.num_bytes(choice.src)
