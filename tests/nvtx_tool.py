"""Scripts under tests/nvtx_recorder.cpp, a tool that NVTX loads, and what it saw of them."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import NamedTuple

from build_tools import ROOT

# Two buffers, and a stand-in for a copy that runs on a GPU.
PRELUDE = """
import threading
import numpy as np
from hicache_ext.copy import copy_pages
from hicache_ext.device_model import Direction
from hicache_ext.errors import CudaError
from hicache_ext.layout import LayoutSpec, PagedBuffer
from hicache_ext.copy_part import CopyPart
from hicache_ext.plan_set import PlanSet
from hicache_ext.profile import copy_ranges
from hicache_ext.ticket import Ticket

def buffer(name):
    spec = LayoutSpec.make(name, num_pages=4, page_size=2, num_layers=2, num_heads=2, head_bytes=16)
    return PagedBuffer(np.zeros(spec.num_bytes, np.uint8), spec)

src, dst = buffer("layer_first"), buffer("page_unified")

class Running:
    is_done, error = False, None
    def query(self): return self.is_done
    def wait(self):
        if self.error: raise self.error
    def wait_on_stream(self, stream): pass
    def result(self): self.wait(); return 7

def start(executor="sm_reg", direction=Direction.HOST_TO_DEVICE, num_pages=1):
    running = Running()
    parts = PlanSet([CopyPart(src, range(num_pages), dst, range(num_pages))])
    with copy_ranges(executor, direction, parts) as ranges:
        pass
    return running, Ticket(0, (), running, ranges)
"""


class Call(NamedTuple):
    """A line of the record: push, pop, start, end, domain, category or schema, and its words."""

    what: str
    words: tuple[str, ...]


def record(tool: Path, tmp_path: Path, script: str) -> list[Call]:
    """What the tool saw of `script`, run after PRELUDE in a process of its own."""
    out = tmp_path / "record.txt"
    env = {"NVTX_INJECTION64_PATH": str(tool), "NVTX_RECORD": str(out)}
    subprocess.run(
        [sys.executable, "-c", PRELUDE + textwrap.dedent(script)],
        cwd=ROOT,
        env=os.environ | env | {"PYTHONPATH": str(ROOT / "python")},
        check=True,
    )
    calls = [line.split("\t") for line in out.read_text().splitlines()]
    return [Call(what, tuple(words)) for what, *words in calls]


def ranges_of(calls: list[Call]) -> list[str]:
    """Ids of the ranges of tickets, after checking that each was opened and closed once, and that
    enqueues nest on their threads."""
    open_ids: list[str] = []
    depths: dict[str, int] = {}
    seen: list[str] = []
    for what, words in calls:
        if what == "start":
            open_ids.append(words[0])
            seen.append(words[0])
        elif what == "end":
            open_ids.remove(words[0])
        elif what in ("push", "pop"):
            depths[words[0]] = depths.get(words[0], 0) + (1 if what == "push" else -1)
            assert 0 <= depths[words[0]] <= 1
    assert open_ids == [] and set(depths.values()) <= {0}
    return seen


def whats(calls: list[Call]) -> list[str]:
    return [call.what for call in calls if call.what not in ("domain", "category", "schema")]
