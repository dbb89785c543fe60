"""The machines of `make gpu`: a GPU with its host, and for the tests a host alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from benchmarks.harness import machine as host_facts
from hicache_ext.device_model import Direction

_DECODE_STEPS = 100


class HostMachine:
    """Both sides in ordinary memory: for the tests of this benchmark, never a figure of a GPU."""

    directions = (Direction.HOST_TO_HOST,)
    stream = None

    def __init__(self, arena_bytes: int) -> None:
        self.arena_bytes = arena_bytes
        self._arenas = tuple(np.ones(arena_bytes, np.uint8) for _ in range(2))

    def facts(self) -> dict[str, object]:
        return {"host": host_facts(), "gpu": None}

    def arenas(self, direction: Direction) -> tuple[Any, Any]:
        return self._arenas[0], self._arenas[1]

    def memcpy(self, direction: Direction, num_bytes: int) -> None:
        self._arenas[1][:num_bytes] = self._arenas[0][:num_bytes]

    def contenders(self, direction: Direction) -> Sequence[tuple[str, int | None]]:
        return [("cpu", None), ("cpu_ref", None)]

    def decode(self) -> None:
        half = self.arena_bytes // 2
        for _ in range(_DECODE_STEPS):
            np.add(self._arenas[0][:half], 1, out=self._arenas[0][half : 2 * half])


class GpuMachine:
    """GPU 0 with torch's tensors, and pinned memory of the host."""

    directions = (
        Direction.HOST_TO_DEVICE,
        Direction.DEVICE_TO_HOST,
        Direction.DEVICE_TO_DEVICE,
    )
    quotas = (1, 2, 4, 8, 16, 32)

    def __init__(self, arena_bytes: int) -> None:
        import torch

        from hicache_ext.host_buffer import HostBuffer, PinMode

        self.arena_bytes = arena_bytes
        self._torch = torch
        self._device = [
            torch.ones(arena_bytes, dtype=torch.uint8, device="cuda:0") for _ in range(2)
        ]
        self._buffer = HostBuffer(arena_bytes, name="make gpu", pin=PinMode.REQUIRED)
        self._host = torch.from_numpy(self._buffer.array)
        # Not the default stream: that one takes no batches, and decode runs there.
        self.stream = torch.cuda.Stream(0)
        self._weights = torch.ones(2, 1 << 28, dtype=torch.float16, device="cuda:0")  # 1 GiB
        torch.cuda.synchronize()

    def facts(self) -> dict[str, object]:
        properties = self._torch.cuda.get_device_properties(0)
        return {
            "host": host_facts(),
            "gpu": properties.name,
            "num_sms": properties.multi_processor_count,
            "compute_capability": f"{properties.major}.{properties.minor}",
            "torch": self._torch.__version__,
        }

    def arenas(self, direction: Direction) -> tuple[Any, Any]:
        return {
            Direction.HOST_TO_DEVICE: (self._host, self._device[0]),
            Direction.DEVICE_TO_HOST: (self._device[0], self._host),
            Direction.DEVICE_TO_DEVICE: (self._device[0], self._device[1]),
        }[direction]

    def memcpy(self, direction: Direction, num_bytes: int) -> None:
        src, dst = self.arenas(direction)
        with self._torch.cuda.stream(self.stream):
            dst[:num_bytes].copy_(src[:num_bytes], non_blocking=True)
        self.stream.synchronize()

    def contenders(self, direction: Direction) -> Sequence[tuple[str, int | None]]:
        kernels, engines = ["sm_reg"], ["ce_batch"]
        if self._torch.cuda.get_device_capability(0) >= (9, 0):
            kernels.append("sm_bulk")
        if direction is not Direction.DEVICE_TO_DEVICE:
            engines.append("staged")
        with_quota = [(kernel, quota) for kernel in kernels for quota in self.quotas]
        return [*((name, None) for name in engines), *with_quota]

    def decode(self) -> None:
        for _ in range(_DECODE_STEPS):
            self._torch.add(self._weights[0], 1, out=self._weights[1])
        self._torch.cuda.current_stream().synchronize()
