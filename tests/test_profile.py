"""The ranges that a profiler sees, recorded by a tool of our own that NVTX loads."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from build_tools import ROOT, load_setup, need

from benchmarks.harness import interleaved, timed
from hicache_ext import _C
from hicache_ext.copy import copy_pages
from hicache_ext.device_model import Direction
from hicache_ext.layout import LayoutSpec, PagedBuffer
from hicache_ext.plan import make_plan
from hicache_ext.plan_set import CopyPart, PlanSet
from hicache_ext.profile import NO_RANGES, copy_ranges

SHAPE = dict(num_pages=4, page_size=2, num_layers=2, num_heads=2, head_bytes=16)

# Two buffers, and a stand-in for a copy that runs on a GPU.
PRELUDE = """
import threading
import numpy as np
from hicache_ext.copy import copy_pages
from hicache_ext.device_model import Direction
from hicache_ext.errors import CudaError
from hicache_ext.layout import LayoutSpec, PagedBuffer
from hicache_ext.plan_set import CopyPart, PlanSet
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


@pytest.fixture(scope="session")
def recorder(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The tool, with and without payload schemas."""
    if not _C.with_nvtx:
        pytest.skip("this build has no NVTX headers: neither toolkit nor the nvidia-nvtx wheel")
    compiler, setup = need("c++"), load_setup()
    includes = setup.make_extension(setup.select_cuda()).include_dirs
    flags = ["-std=c++20", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC"]
    flags += [f"-isystem{path}" for path in includes]
    folder = tmp_path_factory.mktemp("recorder")
    built = {"plain": [], "schemas": ["-DRECORD_SCHEMAS"]}
    paths = {name: folder / f"{name}.so" for name in built}
    running = [
        subprocess.Popen(
            [compiler, *flags, *more, ROOT / "tests/nvtx_recorder.cpp", "-o", paths[k]]
        )
        for k, more in built.items()
    ]
    assert [process.wait() for process in running] == [0, 0]
    return paths


def record(tool: Path, tmp_path: Path, script: str) -> list[Call]:
    """What the tool saw of `script`, run after PRELUDE in a process of its own."""
    out = tmp_path / "record.txt"
    env = {"NVTX_INJECTION64_PATH": str(tool), "NVTX_RECORD": str(out)}
    subprocess.run(
        [sys.executable, "-c", PRELUDE + textwrap.dedent(script)],
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


def test_a_copy_shows_executor_bytes_and_runs(recorder: dict[str, Path], tmp_path: Path) -> None:
    calls = record(
        recorder["schemas"],
        tmp_path,
        """
        copy_pages(src, [1, 2], dst, [0, 3], executor="cpu_ref")
        copy_pages(src, [3], dst, [1], executor="cpu").result()
        """,
    )
    assert calls[0] == Call("domain", ("hicache",))
    assert Call("category", ("1", "host to host")) in calls
    assert Call("category", ("3", "device to host")) in calls
    assert Call("schema", ("copy", "16", "bytes", "0", "runs", "8")) in calls
    assert whats(calls) == ["start", "push", "pop", "end"] * 2
    plan = make_plan(*(LayoutSpec.make(n, **SHAPE) for n in ("layer_first", "page_unified")))
    for name, num_pages, what in (("cpu_ref", 2, "push"), ("cpu", 1, "push")):
        found = [call.words for call in calls if call.what == what and call.words[1] == name]
        payload = (str(num_pages * plan.page_bytes), str(num_pages * plan.runs_per_page))
        assert [(words[2], *words[4:]) for words in found] == [("1", *payload)]
    # Both ranges of a copy say the same.
    starts = [call.words[1:] for call in calls if call.what == "start"]
    assert starts == [call.words for call in calls if call.what == "push"]
    assert len(ranges_of(calls)) == 2


def test_a_tool_without_schemas_sees_bytes(recorder: dict[str, Path], tmp_path: Path) -> None:
    calls = record(recorder["plain"], tmp_path, "copy_pages(src, [1, 2], dst, [0, 3])")
    plan = make_plan(*(LayoutSpec.make(n, **SHAPE) for n in ("layer_first", "page_unified")))
    pushed = next(call.words for call in calls if call.what == "push")
    assert pushed[4:] == (str(2 * plan.page_bytes),)
    assert "schema" not in {call.what for call in calls}
    assert len(ranges_of(calls)) == 1


def test_a_ticket_lasts_until_it_is_seen_done(recorder: dict[str, Path], tmp_path: Path) -> None:
    """By query(), wait(), result() or its end; a stream that waits sees nothing."""
    calls = record(
        recorder["schemas"],
        tmp_path,
        """
        directions = list(Direction)
        tickets = [start(f"executor {i}", directions[i % 4]) for i in range(5)]
        assert not tickets[0][1].query()
        tickets[1][1].wait(stream=77)
        tickets[4][1].wait()
        tickets[0][0].is_done = True
        assert tickets[0][1].query() and tickets[0][1].query()
        thread = threading.Thread(target=tickets[3][1].result)
        thread.start(), thread.join()
        tickets[2][0].error = CudaError("the copy failed")
        try:
            tickets[2][1].result()
        except CudaError:
            pass
        del tickets[1]
        """,
    )
    ended = [call.words[0] for call in calls if call.what == "end"]
    assert ended == ["5", "1", "4", "3", "2"]
    assert whats(calls)[:15] == ["start", "push", "pop"] * 5
    categories = [call.words[3] for call in calls if call.what == "start"]
    assert categories == ["1", "2", "3", "4", "1"]
    assert len({call.words[4] for call in calls if call.what == "start"}) == 4  # colors
    assert ranges_of(calls) == ["1", "2", "3", "4", "5"]


def test_nothing_stays_open(recorder: dict[str, Path], tmp_path: Path) -> None:
    """A refused copy closes its ranges; copies of several threads nest each on its own."""
    calls = record(
        recorder["schemas"],
        tmp_path,
        """
        try:
            copy_pages(src, [1, 99], dst, [0, 3])
        except IndexError:
            pass
        copy_pages(src, [], dst, [])
        copy = lambda: [copy_pages(src, [1], dst, [0], executor="cpu_ref") for _ in range(20)]
        threads = [threading.Thread(target=copy) for _ in range(3)]
        [thread.start() for thread in threads]
        [thread.join() for thread in threads]
        """,
    )
    assert len(ranges_of(calls)) == 62
    assert len({call.words[0] for call in calls if call.what == "push"}) == 4
    empty = [call.words for call in calls if call.what == "push" and call.words[1] == "cpu"][1]
    assert empty[4:] == ("0", "0")


def test_without_a_tool_it_costs_next_to_nothing() -> None:
    """Ranges are a few percent of the shortest call there is."""
    assert not _C.is_profiled()
    src, dst = (LayoutSpec.make(name, **SHAPE) for name in ("layer_first", "page_unified"))
    buffers = [PagedBuffer(np.zeros(spec.num_bytes, np.uint8), spec) for spec in (src, dst)]
    plan = make_plan(src, dst)
    ids = np.array([1])

    parts = PlanSet([CopyPart(buffers[0], ids, buffers[1], ids, plan)])

    def copy() -> None:
        for _ in range(200):
            copy_pages(buffers[0], ids, buffers[1], ids, plan=plan, executor="cpu_ref")

    def show() -> None:
        for _ in range(200):
            with copy_ranges("cpu_ref", Direction.HOST_TO_HOST, parts) as ranges:
                pass
            ranges.close()

    assert copy_ranges("cpu_ref", Direction.HOST_TO_HOST, parts) is NO_RANGES
    samples = interleaved({"copy": timed(copy), "show": timed(show)})
    assert samples["show"].median < 0.2 * samples["copy"].median


def make_nsys(path: Path) -> subprocess.CompletedProcess[str]:
    """`make nsys` with `path` first on a PATH that has no nsys of its own, without building."""
    tools = [path, *(need(tool).rpartition("/")[0] for tool in ("make", "mkdir", "sh"))]
    env = os.environ | {"PATH": os.pathsep.join(map(str, tools))}
    command = ["make", "-o", "build", "nsys", f"VENV={sys.prefix}"]
    return subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True)


def test_make_nsys_says_that_there_is_none(tmp_path: Path) -> None:
    if shutil.which("nsys"):
        pytest.skip("nsys is installed")
    done = make_nsys(tmp_path)
    assert done.returncode != 0
    assert done.stdout == "make nsys: no nsys on the PATH; it comes with NVIDIA Nsight Systems\n"


def test_make_nsys_profiles_the_example(tmp_path: Path) -> None:
    nsys = tmp_path / "nsys"
    nsys.write_text(f'#!/bin/sh\necho "$@" >> "{tmp_path}/calls"\n')
    nsys.chmod(0o755)
    assert make_nsys(tmp_path).returncode == 0
    profile, stats = (tmp_path / "calls").read_text().splitlines()
    assert profile.startswith("profile --trace=cuda,nvtx")
    assert profile.endswith("examples/copy_pages.py")
    assert stats.startswith("stats --report nvtx_sum") and "out/nsys/timeline" in stats
