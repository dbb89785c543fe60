"""A copy that would work, for tests that spoil one thing of it and see that nothing happens."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from emulated_cuda import EmulatedArray, emulated_cuda, pinned
from pages import POISON, Guarded, guarded

from hicache_ext.copy import LayoutSpec, StagingRing, copy_pages
from hicache_ext.errors import LayoutError
from hicache_ext.hazards import Hazards

SIZES = dict(page_size=2, num_layers=2, num_heads=2, head_bytes=16)
SRC = LayoutSpec.make("layer_first", num_pages=4, **SIZES)
DST = LayoutSpec.make("page_unified", num_pages=6, **SIZES)
PAGE_BYTES = SRC.page_bytes

ON_CPU = ("cpu_ref", "cpu")
NAMED = ("sm_reg", "sm_bulk", "ce_batch", "staged")
ON_STREAM = (*NAMED, "auto")
WORK = ("copy", "launch", "record", "stream_wait")  # on a stream
EVERYWHERE = (*ON_CPU, *ON_STREAM)


@dataclass
class Stage:
    """Source pages of 1s, destination pages of POISON, guard bytes around both. For an executor on
    a stream the source lies on the emulated GPU and the destination in pinned memory."""

    executor: str
    source: Guarded
    target: Guarded
    cuda: Any = None  # the emulator, its stream, and the source's arena on its GPU
    stream: int | None = None
    arena: Any = None
    staging: StagingRing | None = None

    def __post_init__(self) -> None:
        self.src, self.dst = self.source.buffer, self.target.buffer
        if self.cuda is not None:
            self.src = self.source.moved(self.arena)
            self.staging = StagingRing(num_bytes=4096)  # the default one takes 60 ms to allocate
        self.src.hazards, self.dst.hazards = Hazards(SRC.num_pages), Hazards(DST.num_pages)

    def copy(self, **changes: Any) -> Any:
        """Pages 0, 1, 2 to pages 0, 1, 2, but for what is changed."""
        good = dict(src=self.src, src_ids=[0, 1, 2], dst=self.dst, dst_ids=[0, 1, 2])
        mine = dict(executor=self.executor, stream=self.stream, staging=self.staging)
        given = {**good, **mine, **changes}
        sides = [given.pop(name) for name in good]
        return copy_pages(*sides, **given)

    def on_gpu(self, content: np.ndarray, device: int = 0) -> EmulatedArray:
        return EmulatedArray(self.cuda, content, device)

    def around_source(self, start: int, num_bytes: int) -> Any:
        """Memory from `start` bytes behind the first of the source on."""
        view = self.source.whole[self.source.begin + start :][:num_bytes]
        return view if self.cuda is None else self.arena.view(view, self.source.whole)

    def bytes(self) -> tuple[bytes, bytes]:
        source = self.source.whole if self.cuda is None else self.arena.read()
        return source.tobytes(), self.target.whole.tobytes()


@contextmanager
def stage_of(executor: str) -> Iterator[Stage]:
    source, target = guarded(SRC, 1), guarded(DST, POISON)
    if executor in ON_CPU:
        yield Stage(executor, source, target)
        return
    with emulated_cuda(num_devices=2) as cuda:
        stream, arena = cuda.create_stream(), EmulatedArray(cuda, source.whole)
        pinned(cuda, target.whole)
        yield Stage(executor, source, target, cuda, stream, arena)


class Bad:
    """A good copy but for what is changed; where that is a function it is called with the stage."""

    def __init__(
        self,
        match: str,
        error: type[Exception] = LayoutError,
        on: tuple[str, ...] = EVERYWHERE,
        **changes: Any,
    ) -> None:
        self.match, self.error, self.on, self.changes = match, error, on, changes

    def attempt(self, stage: Stage) -> object:
        made = {key: to(stage) if callable(to) else to for key, to in self.changes.items()}
        return stage.copy(**made)


def params(table: dict[str, list[Bad]]) -> list[Any]:
    """For pytest, each with the name of its entry."""
    return [
        pytest.param(bad, id=f"{entry}-{i}")
        for entry in table
        for i, bad in enumerate(table[entry])
    ]


def check_refused(bad: Bad) -> None:
    """The attempt raises; no call was made, no byte written, nobody waits, and a copy works."""
    for executor in bad.on:
        with stage_of(executor) as stage:
            before = stage.bytes()
            if stage.cuda is not None:
                stage.cuda.take_calls()
            with pytest.raises(bad.error, match=bad.match):
                bad.attempt(stage)
            if stage.cuda is not None:
                # What the attempt made for itself, memory and streams, is no work.
                calls = [call for call in stage.cuda.take_calls() if call.startswith(WORK)]
                assert calls == [] and stage.cuda.num_pending == 0
            assert stage.bytes() == before
            assert stage.src.hazards.pages() == [] == stage.dst.hazards.pages()
            check_good_copy(stage)


def check_good_copy(stage: Stage) -> None:
    assert stage.copy().result() == 3 * PAGE_BYTES
    pages = stage.target.bytes.reshape(DST.num_pages, -1)
    assert (pages[:3] == 1).all() and (pages[3:] == POISON).all()
    stage.target.check_guards()
