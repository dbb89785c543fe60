"""Random copies of several parts at once: what goes in, and what must be there afterwards."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from page_cases import random_ids, random_spec, random_window
from pages import POISON, Guarded, covered, guarded_set, oracle

from hicache_ext.copy import CopyPart, LayoutSpec, PlanSet, RunOrder, Side, make_plan

Ids = tuple[list[int], list[int]]  # source, destination


@dataclass
class Case:
    """Sources lie in one arena and destinations in another, guard bytes and poison around each."""

    sources: list[Guarded]
    targets: list[Guarded]
    parts: PlanSet
    expected: np.ndarray  # the arena of the destinations after the copy
    num_writes: np.ndarray  # 1 for each byte of it that the copy must write, else 0
    num_bytes: int  # that the copy moves

    @property
    def source_arena(self) -> np.ndarray:
        return self.sources[0].whole

    @property
    def target_arena(self) -> np.ndarray:
        return self.targets[0].whole


def draw_case(
    rng: random.Random,
    kinds: Sequence[tuple[str, str]],
    draw_ids: Callable[[random.Random, LayoutSpec, LayoutSpec], Ids] = random_ids,
) -> Case:
    """A part for each pair of layouts of `kinds`: random extents, windows, gaps, addresses, ids of
    both widths with holes and duplicate sources, at times no page at all."""
    specs = []
    for src_kind, dst_kind in kinds:
        src_spec = random_spec(rng, src_kind)
        specs.append((src_spec, random_spec(rng, dst_kind, like=src_spec)))
    odd = [[rng.choice([0, 0, 1, 4, 8, 15]) for _ in kinds] for _ in range(2)]
    sources = guarded_set([src for src, _ in specs], odd[0])
    targets = guarded_set([dst for _, dst in specs], odd[1])
    for source in sources:
        source.bytes[:] = np.frombuffer(rng.randbytes(source.bytes.size), np.uint8)
    for target in targets:
        for plane in target.planes:
            target.whole[plane : plane + target.spec.plane_bytes] = POISON

    parts, num_bytes = [], 0
    expected, num_writes = targets[0].whole.copy(), np.zeros(targets[0].whole.size, np.uint8)
    for source, target in zip(sources, targets, strict=True):
        window = random_window(rng, source.spec, target.spec)
        ids = draw_ids(rng, source.spec, target.spec)
        side = rng.choice(list(Side))
        order = rng.choice([RunOrder.PAGES, RunOrder.PAGES, RunOrder.LAYERS])
        chosen = dict(**vars(window), ascending=side, order=order)
        plan = make_plan(source.spec, target.spec, **chosen)
        arrays = [np.array(given, rng.choice([np.int32, np.int64])) for given in ids]
        parts.append(CopyPart(source.buffer, arrays[0], target.buffer, arrays[1], plan))
        inside = slice(target.begin, target.end)
        expected[inside] = oracle(source, target, *ids, window)
        num_writes[inside] = covered(source, target, *ids, window)
        num_copied = sum(s >= 0 and d >= 0 for s, d in zip(*ids, strict=True))
        num_bytes += num_copied * plan.page_bytes
    return Case(sources, targets, PlanSet(parts), expected, num_writes, num_bytes)
