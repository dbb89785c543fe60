"""The ranges that a profiler sees, recorded by a tool of our own that NVTX loads."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from build_tools import ROOT, load_setup, need
from nvtx_tool import Call, ranges_of, record, whats

from benchmarks.harness import interleaved, timed
from hicache_ext import _C
from hicache_ext.copy import copy_pages
from hicache_ext.copy_part import CopyPart
from hicache_ext.device_model import Direction
from hicache_ext.layout import LayoutSpec, PagedBuffer
from hicache_ext.plan import make_plan
from hicache_ext.plan_set import PlanSet
from hicache_ext.profile import NO_RANGES, copy_ranges

SHAPE = dict(num_pages=4, page_size=2, num_layers=2, num_heads=2, head_bytes=16)


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


def test_slots_show_what_they_move(recorder: dict[str, Path], tmp_path: Path) -> None:
    calls = record(
        recorder["schemas"],
        tmp_path,
        """
        from hicache_ext.errors import LayoutError
        from hicache_ext.staging import Slots, gather_slots, scatter_slots
        slots = Slots(np.zeros(4 * 4096, np.uint8), src.spec)
        gather_slots(src, [2, 0, 1], slots)
        scatter_slots(slots, src, [3])
        try: gather_slots(src, [9], slots)
        except LayoutError: pass
        """,
    )
    assert whats(calls) == ["start", "push", "pop", "end"] * 3
    pushed = [call.words for call in calls if call.what == "push"]
    names_and_bytes = [(words[1], words[4]) for words in pushed]
    page_bytes = LayoutSpec.make("layer_first", **SHAPE).page_bytes
    gathers = [("gather_slots", str(n * page_bytes)) for n in (3, 1)]
    assert names_and_bytes == [gathers[0], ("scatter_slots", str(page_bytes)), gathers[1]]
    assert len(ranges_of(calls)) == 3


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


def test_a_copy_on_a_stream_is_open_until_it_is_seen_done(
    recorder: dict[str, Path], tmp_path: Path
) -> None:
    """On the emulated CUDA, whose streams run late; a copy in a capture is not under way."""
    calls = record(
        recorder["schemas"],
        tmp_path,
        """
        import sys
        sys.path.insert(0, "tests")
        from emulated_cuda import EmulatedArray, emulated_cuda, pinned

        with emulated_cuda() as cuda:
            on_host = PagedBuffer(pinned(cuda, src.array), src.spec)
            on_gpu = PagedBuffer(EmulatedArray(cuda, dst.array), dst.spec)
            stream = cuda.create_stream()
            out = copy_pages(on_gpu, [1], on_host, [2], executor="ce_batch", stream=stream)
            back = copy_pages(on_host, [0, 3], on_gpu, [3, 0], executor="sm_reg", stream=stream)
            assert not back.query()
            back.wait()
            out.result()
            cuda.begin_capture(stream)
            captured = copy_pages(on_host, [0], on_gpu, [1], executor="sm_reg", stream=stream)
            captured.query()
            cuda.end_capture(stream)
            del out, back, captured
        """,
    )
    starts = [call.words for call in calls if call.what == "start"]
    assert [(words[2], words[3]) for words in starts] == [
        ("ce_batch", "3"),  # device to host
        ("sm_reg", "2"),
        ("sm_reg", "2"),
    ]
    assert [words[5] for words in starts] == ["256", "512", "256"]
    expected = [*["start", "push", "pop"] * 2, "end", "end", "start", "push", "pop", "end"]
    assert whats(calls) == expected
    assert [call.words[0] for call in calls if call.what == "end"] == ["2", "1", "3"]


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
    command = ["make", "--no-print-directory", "-o", "build", "nsys", f"VENV={sys.prefix}"]
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
