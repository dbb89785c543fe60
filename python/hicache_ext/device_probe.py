"""A GPU as calibration sees it: who it is, and copies that take its time."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from hicache_ext import _C
from hicache_ext.calibration import SCRATCH_BYTES, DeviceFacts
from hicache_ext.copy_part import CopyPart
from hicache_ext.copy_work import Work
from hicache_ext.cuda_copy import start_on_stream
from hicache_ext.device_link import link_of
from hicache_ext.device_model import Direction
from hicache_ext.host_buffer import HostBuffer, PinMode
from hicache_ext.layout import LayoutSpec, PagedBuffer
from hicache_ext.plan_set import PlanSet

NUM_COPIES = 3
_DRIVER = Path("/sys/module/nvidia/version")


def device_facts(device: int) -> DeviceFacts | None:
    """Of GPU `device`; None of one that keeps no time: an emulator has no driver."""
    identity = _C.device_identity(device)
    if identity.driver_version == 0:
        return None
    build = _DRIVER.read_text().strip() if _DRIVER.exists() else "unknown"
    return DeviceFacts(
        uuid=identity.uuid,
        driver=f"{build} CUDA {identity.driver_version}",
        link=link_of(identity.pci_bus_id, identity.is_coherent),
        sm_version=identity.sm_version,
        num_sms=identity.num_sms,
    )


class DeviceProbe:
    """Does the copies that calibrate() asks for, on a stream of its own; the best of three counts.

    It holds SCRATCH_BYTES of pinned host memory and twice as many on the GPU while it lives.
    CudaError or CapacityError where they are not there.
    """

    def __init__(self, device: int, pinned: Callable[[int], Any] | None = None) -> None:
        """pinned: makes the array on the host, by default a HostBuffer's."""
        self._device = device
        self._scratch = _C.DeviceScratch(device=device, num_bytes=2 * SCRATCH_BYTES)
        host = (pinned or _pinned)(SCRATCH_BYTES)
        first, second = (_GpuBytes(self._scratch, device, i * SCRATCH_BYTES) for i in range(2))
        self._sides = {
            Direction.HOST_TO_DEVICE: (host, first),
            Direction.DEVICE_TO_HOST: (first, host),
            Direction.DEVICE_TO_DEVICE: (first, second),
        }

    def __call__(self, executor: str, work: Work) -> float:
        """Seconds from the call until the bytes are there."""
        parts = self._parts(work)
        taken = []
        for _ in range(NUM_COPIES):
            began = time.perf_counter()
            ticket = start_on_stream(executor, parts, self._scratch.stream, work.num_sms)
            ticket.wait()
            taken.append(time.perf_counter() - began)
        return min(taken)

    def _parts(self, work: Work) -> PlanSet:
        """The pages of the other side in reverse: no two runs go on together on both sides."""
        (part,) = work.parts
        spec = LayoutSpec.make(
            "page_unified",
            num_pages=part.num_pages,
            page_size=1,
            num_layers=1,
            num_kv=1,
            num_heads=1,
            head_bytes=part.run_bytes,
        )
        src, dst = (
            PagedBuffer(side[: spec.num_bytes], spec) for side in self._sides[work.direction]
        )
        ids = np.arange(part.num_pages)
        return PlanSet([CopyPart(src, ids, dst, ids[::-1].copy())])


def _pinned(num_bytes: int) -> Any:
    return HostBuffer(num_bytes, name="calibration", pin=PinMode.REQUIRED).array


class _GpuBytes:
    """Bytes of the scratch memory from `offset` on, as a CUDA array."""

    def __init__(
        self, scratch: _C.DeviceScratch, device: int, offset: int, num_bytes: int = SCRATCH_BYTES
    ) -> None:
        self._scratch, self._offset, self._num_bytes = scratch, offset, num_bytes
        self.device = _CudaDevice(device)

    def __getitem__(self, part: slice) -> _GpuBytes:
        return _GpuBytes(self._scratch, self.device.id, self._offset, part.stop)

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        return {
            "version": 3,
            "shape": (self._num_bytes,),
            "typestr": "|u1",
            "data": (self._scratch.address + self._offset, False),
            "stream": None,
        }


class _CudaDevice:
    def __init__(self, idx: int) -> None:
        self.id = idx
