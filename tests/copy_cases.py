"""Random copies of several parts at once: what goes in, and what must be there afterwards."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from page_cases import Window, random_ids, random_spec, random_window
from pages import POISON, Guarded, covered, guarded_set, oracle

from hicache_ext.copy import CopyPart, LayoutSpec, Plan, PlanSet, RunOrder, Side, make_plan

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


@dataclass(frozen=True)
class Choice:
    """What is chosen for a part before there is memory for it."""

    src: LayoutSpec
    dst: LayoutSpec
    ids: Ids
    window: Window
    dtypes: tuple[type, type] = (np.int64, np.int32)  # of the ids
    misaligns: tuple[int, int] = (0, 0)  # where the buffers begin, from a multiple of 64
    ascending: Side = Side.SOURCE
    order: RunOrder = RunOrder.PAGES

    def plan(self) -> Plan:
        seen = vars(self.window)
        return make_plan(self.src, self.dst, ascending=self.ascending, order=self.order, **seen)


def make_case(choices: Sequence[Choice], rng: random.Random) -> Case:
    """Random bytes on one side, poison on the other."""
    sources = guarded_set([c.src for c in choices], [c.misaligns[0] for c in choices])
    targets = guarded_set([c.dst for c in choices], [c.misaligns[1] for c in choices])
    for source in sources:
        source.bytes[:] = np.frombuffer(rng.randbytes(source.bytes.size), np.uint8)
    for target in targets:
        for plane in target.planes:
            target.whole[plane : plane + target.spec.plane_bytes] = POISON

    parts, num_bytes = [], 0
    expected, num_writes = targets[0].whole.copy(), np.zeros(targets[0].whole.size, np.uint8)
    for choice, source, target in zip(choices, sources, targets, strict=True):
        ids = [np.array(*given) for given in zip(choice.ids, choice.dtypes, strict=True)]
        parts.append(CopyPart(source.buffer, ids[0], target.buffer, ids[1], choice.plan()))
        inside = slice(target.begin, target.end)
        expected[inside] = oracle(source, target, *choice.ids, choice.window)
        num_writes[inside] = covered(source, target, *choice.ids, choice.window)
        num_copied = sum(s >= 0 and d >= 0 for s, d in zip(*choice.ids, strict=True))
        num_bytes += num_copied * choice.window.num_bytes(choice.src)
    return Case(sources, targets, PlanSet(parts), expected, num_writes, num_bytes)


def draw_case(
    rng: random.Random,
    kinds: Sequence[tuple[str, str]],
    draw_ids: Callable[[random.Random, LayoutSpec, LayoutSpec], Ids] = random_ids,
    align_bytes: int = 1,
) -> Case:
    """A part for each pair of layouts of `kinds`: random extents, windows, gaps, addresses, ids of
    both widths with holes and duplicate sources, at times no page at all."""
    offsets = [offset for offset in (0, 0, 1, 4, 8, 15, 16, 48) if offset % align_bytes == 0]
    choices = []
    for src_kind, dst_kind in kinds:
        src = random_spec(rng, src_kind, align_bytes=align_bytes)
        dst = random_spec(rng, dst_kind, src, align_bytes)
        choices.append(
            Choice(
                src,
                dst,
                draw_ids(rng, src, dst),
                random_window(rng, src, dst),
                dtypes=(rng.choice([np.int32, np.int64]), rng.choice([np.int32, np.int64])),
                misaligns=(rng.choice(offsets), rng.choice(offsets)),
                ascending=rng.choice(list(Side)),
                order=rng.choice([RunOrder.PAGES, RunOrder.PAGES, RunOrder.LAYERS]),
            )
        )
    return make_case(choices, rng)
