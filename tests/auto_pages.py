"""Pages on an emulated device for the tests of executor="auto"."""

from __future__ import annotations

from typing import Any

import numpy as np
from copy_works import D2H, H2D
from emulated_cuda import EmulatedArray, pinned

from hicache_ext import _C, executors
from hicache_ext.copy_part import CopyPart
from hicache_ext.device_model import Direction
from hicache_ext.layout import LayoutSpec, PagedBuffer
from hicache_ext.plan_set import PlanSet


class Pair:
    """Pages of num_runs runs on the host and on the emulated device, and copies between them."""

    def __init__(self, cuda: _C.CudaEmulator, run_bytes: int, num_runs: int = 32) -> None:
        shape = dict(page_size=1, num_layers=num_runs // 2, num_heads=1, head_bytes=run_bytes)
        specs = [LayoutSpec.make(n, num_pages=4, **shape) for n in ("page_unified", "layer_first")]
        rng = np.random.default_rng(7)
        content = rng.integers(0, 256, specs[0].num_bytes, np.uint8)
        self.on_host = PagedBuffer(pinned(cuda, content), specs[0])
        self.array = EmulatedArray(cuda, np.zeros(specs[1].num_bytes, np.uint8))
        self.on_device = PagedBuffer(self.array, specs[1])
        self.stream = cuda.create_stream()

    def chosen(self, direction: Direction = H2D, num_pages: int = 4, **options: Any) -> str:
        ids = options.pop("ids", list(range(num_pages)))
        src, dst = self.on_host, self.on_device
        if direction is D2H:
            src, dst = dst, src
        options = {"stream": self.stream} | options
        parts = PlanSet([CopyPart(src, ids, dst, ids)])
        return executors.choose(parts, executors.CopyOptions(**options))
