"""Copies through executor="sm_reg" from Python, on a GPU or in the simulator. Usage: MODULE SEED.

MODULE is a build of hicache_ext._C with cudart shared. The arrays are foreign on purpose: nothing
but __cuda_array_interface__ and the CUDA runtime, as CuPy would hand them over.
"""

from __future__ import annotations

import importlib.util
import random
import sys
from functools import partial
from typing import Any

import numpy as np
from gpu_memory import GpuArray


def load_module(path: str) -> None:
    import hicache_ext

    spec = importlib.util.spec_from_file_location("hicache_ext._C", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["hicache_ext._C"] = hicache_ext._C = module
    spec.loader.exec_module(module)


def expect_raise(error: type[Exception], text: str, action: Any) -> None:
    try:
        action()
    except error as raised:
        assert text in str(raised), f"wanted {text!r} in {raised}"
    else:
        raise AssertionError(f"no {error.__name__} with {text!r}")


def main(module: str, seed: int) -> None:
    load_module(module)
    from copy_cases import draw_case
    from copy_executors import CUDA_NAMES, EXECUTORS
    from page_cases import KINDS

    from hicache_ext.copy import copy_pages
    from hicache_ext.errors import PageIndexError
    from hicache_ext.layout import LayoutSpec, PagedBuffer

    rng = random.Random(seed)
    on_gpu_only = [executor for executor in EXECUTORS if executor.name in CUDA_NAMES]
    assert len(on_gpu_only) == 4
    for executor in on_gpu_only:
        assert not executor.why_not(), executor.why_not()
        for number in range(16):
            kinds = [(rng.choice(KINDS), rng.choice(KINDS)) for _ in range(rng.randint(1, 4))]
            case = draw_case(rng, kinds, align_bytes=executor.align_bytes)
            assert executor.run(case, rng) == case.num_bytes, (executor, seed, number, kinds)
            shown = f"{executor.name} seed {seed} case {number} {kinds}"
            np.testing.assert_array_equal(case.target_arena, case.expected, err_msg=shown)

    sizes = dict(page_size=2, num_layers=2, num_heads=2, head_bytes=16)
    src_spec = LayoutSpec.make("layer_first", num_pages=3, **sizes)
    dst_spec = LayoutSpec.make("page_unified", num_pages=4, **sizes)
    on_gpu = GpuArray(np.zeros(dst_spec.num_bytes, np.uint8))
    from_buffer = PagedBuffer(GpuArray(np.ones(src_spec.num_bytes, np.uint8)), src_spec)
    to_buffer = PagedBuffer(on_gpu, dst_spec)
    assert (from_buffer.device, to_buffer.device) == ("cuda:0", "cuda:0")
    ticket = copy_pages(from_buffer, [0], to_buffer, [1], stream=0)
    ticket.wait()
    ticket.wait(stream=0)
    assert ticket.query() and ticket.result() == src_spec.page_bytes
    bad = GpuArray(np.array([dst_spec.num_pages + 3]))
    ticket = copy_pages(from_buffer, [0], to_buffer, bad)
    wanted = f"destination page id out of range: position=0 value={dst_spec.num_pages + 3}"
    expect_raise(PageIndexError, wanted, ticket.result)
    before = on_gpu.read()
    on_host = partial(copy_pages, from_buffer, [src_spec.num_pages], to_buffer, [0])
    expect_raise(PageIndexError, "source page id out of range: position=0", on_host)
    np.testing.assert_array_equal(on_gpu.read(), before)
    copy_pages(from_buffer, [0], to_buffer, [0])  # dropped at once
    print(f"stream_worker: seed {seed} equal")


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
