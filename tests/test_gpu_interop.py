"""Copies between pinned memory and GPU arrays of every framework and protocol, with their page ids
and on their streams; on the emulated CUDA. CuPy's own objects: test_cupy.py."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import gpu_frameworks
import numpy as np
import pytest
from copy_world import only
from emulated_cuda import EmulatedArray, emulated_cuda, pinned

from hicache_ext.copy import copy_pages
from hicache_ext.layout import LayoutSpec, PagedBuffer

SPEC = LayoutSpec.make(
    "page_unified", num_pages=4, page_size=2, num_layers=1, num_heads=1, head_bytes=8
)
PAGE_BYTES = SPEC.page_bytes

# What makes an array of memory, and whether its framework has a current stream.
KINDS = {
    "torch": (gpu_frameworks.TorchTensor, True),
    "cupy": (gpu_frameworks.CupyArray, True),
    "interface": (gpu_frameworks.interface, False),
    "dlpack": (gpu_frameworks.dlpack, False),
}


@pytest.fixture
def cuda() -> Iterator[Any]:
    with emulated_cuda(num_devices=2) as cuda:
        yield cuda


@pytest.fixture
def current(cuda: Any, monkeypatch: pytest.MonkeyPatch) -> dict[int, int]:
    """The stream of each GPU that both frameworks call the current one."""
    streams = {device_idx: cuda.create_stream(device_idx) for device_idx in (0, 1)}
    gpu_frameworks.install_torch(monkeypatch, streams)
    gpu_frameworks.install_cupy(monkeypatch, streams)
    return streams


def number_of(stream: int) -> int:
    """Of the emulator's streams, as its list of calls has it."""
    return stream >> 4 & 0xFF


@pytest.mark.parametrize("width", [np.int32, np.int64])
@pytest.mark.parametrize("device_idx", [0, 1])
@pytest.mark.parametrize("kind", KINDS)
def test_pages_and_ids_of_every_kind(
    cuda: Any, current: dict[int, int], kind: str, device_idx: int, width: Any
) -> None:
    make, has_current_stream = KINDS[kind]
    values = np.arange(SPEC.num_bytes, dtype=np.uint8)
    home = EmulatedArray(cuda, values, device_idx)
    ids = EmulatedArray(cuda, np.array([3, 0], width), device_idx)
    array = make(home.address, values, device_idx)
    gpu_ids = make(ids.address, ids.read(), device_idx)
    host = pinned(cuda, np.zeros(SPEC.num_bytes, np.uint8))
    on_gpu, on_host = PagedBuffer(array, SPEC), PagedBuffer(host, SPEC)
    assert (on_gpu.address, on_gpu.device) == (home.address, f"cuda:{device_idx}")

    cuda.take_calls()
    ticket = copy_pages(on_gpu, gpu_ids, on_host, [1, 2], executor="sm_reg")
    (launch,) = only(cuda.take_calls(), "launch")
    stream = number_of(current[device_idx]) if has_current_stream else 0
    assert f" stream={stream} " in launch
    assert ticket.result() == 2 * PAGE_BYTES
    pages, before = host.reshape(4, -1), values.reshape(4, -1)
    assert (pages[1] == before[3]).all() and (pages[2] == before[0]).all()
    assert not pages[[0, 3]].any()

    copy_pages(on_host, [2, 1], on_gpu, gpu_ids, executor="sm_reg").result()
    after = home.read().reshape(4, -1)
    assert (after[3] == before[0]).all() and (after[0] == before[3]).all()
    assert (after[1:3] == before[1:3]).all()


class CudaStream:
    def __init__(self, told: Any) -> None:
        self.__cuda_stream__ = told


STREAMS = {
    "raw handle": lambda handle: handle,
    "torch": lambda handle: SimpleNamespace(cuda_stream=handle, device_index=0),
    "cupy": lambda handle: SimpleNamespace(ptr=handle, device_id=0),
    "__cuda_stream__": lambda handle: CudaStream(lambda: (0, handle)),
    "__cuda_stream__ as a property": lambda handle: CudaStream((0, handle)),
}


@pytest.mark.parametrize("executor", ["sm_reg", "ce_batch", "auto"])
@pytest.mark.parametrize("kind", STREAMS)
def test_a_copy_runs_on_streams_of_every_kind(cuda: Any, kind: str, executor: str) -> None:
    """And another one waits for it."""
    home = EmulatedArray(cuda, np.arange(SPEC.num_bytes, dtype=np.uint8))
    host = pinned(cuda, np.zeros(SPEC.num_bytes, np.uint8))
    src, dst = PagedBuffer(home, SPEC), PagedBuffer(host, SPEC)
    streams = [cuda.create_stream(), cuda.create_stream()]
    copied, waiting = (STREAMS[kind](handle) for handle in streams)
    cuda.take_calls()
    ticket = copy_pages(src, [3], dst, [1], executor=executor, stream=copied)
    work = only(cuda.take_calls(), "launch", "copy", "copy_batch")
    assert work and all(f" stream={number_of(streams[0])} " in call for call in work)
    ticket.wait(waiting)
    (wait,) = only(cuda.take_calls(), "stream_wait")
    assert f"stream={number_of(streams[1])} " in wait
    assert ticket.result() == PAGE_BYTES
