"""What an executor takes: up to eight plans with their buffers and page ids, as one copy."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import numpy.typing as npt

from hicache_ext import _C
from hicache_ext.arrays import ArrayView
from hicache_ext.checks import require_kind
from hicache_ext.copy_part import CopyPart
from hicache_ext.copy_work import PartWork, Work
from hicache_ext.device_model import PCIE5, DeviceModel, Direction
from hicache_ext.errors import LayoutError
from hicache_ext.explain import explain_cost
from hicache_ext.hazards import Access, Hazards, Ids
from hicache_ext.layout import PagedBuffer
from hicache_ext.overlap import require_apart
from hicache_ext.page_ids import PageIds, gpu_page_ids, host_page_ids, is_on_gpu
from hicache_ext.plan import Plan, RunOrder, ascending_side, make_plan
from hicache_ext.ticket import Ticket

MAX_PARTS: int = _C.MAX_PARTS
SLOT_BYTES: int = _C.STAGING_BYTES // 2  # of the staging memory that a GPU has of its own


class PlanSet:
    """Up to MAX_PARTS parts that are copied by one launch: full attention, its window, sidecars.

    It keeps buffers and ids alive, and host ids are read when the copy starts. LayoutError, before
    anything is written: a plan of other layouts, a read-only destination, ids of a wrong type or
    unequal count, parts on several GPUs, a destination that overlaps a source, two parts that write
    one window of one page (ids in GPU memory are trusted); LifetimeError where a tensor has lost
    its memory.
    """

    def __init__(self, parts: Iterable[CopyPart]) -> None:
        self.native = _C.CopySet()
        self.gpu: PagedBuffer | None = None  # a buffer on the one GPU of the copy
        self._gpu_ids: list[tuple[str, ArrayView]] = []
        self._gpu_id_arrays: list[object] = []
        self._accesses: list[tuple[Hazards, Ids | None, Access]] = []
        self.parts = tuple([self._add(part) for part in parts])
        for side, seen in self._gpu_ids:
            where = seen.device if self.gpu is None else self.gpu.device
            if seen.device != where:
                raise LayoutError(f"{side} page ids on {seen.device} for a copy on {where}")
        if shared := self.native.shared:
            require_apart(self.parts, shared)

    @property
    def num_bytes(self) -> int:
        """Bytes to move if no position is a hole."""
        return self.native.num_bytes

    @property
    def num_runs(self) -> int:
        """Contiguous pieces of all parts, if no position is a hole."""
        return self.native.num_runs

    @property
    def direction(self) -> Direction:
        """Between which memories; of the first part, where they differ."""
        if not self.parts:
            return Direction.HOST_TO_HOST
        return Direction.between(self.parts[0].src.device, self.parts[0].dst.device)

    @property
    def plans(self) -> tuple[Plan, ...]:
        return tuple(part.plan for part in self.parts if part.plan is not None)

    @property
    def gpu_arrays(self) -> list[object]:
        """The arrays and page ids of the caller's that lie on the GPU."""
        found: list[object] = [
            array
            for part in self.parts
            for buffer in (part.src, part.dst)
            if buffer.device != "cpu"
            for array in (buffer.array if type(buffer.array) is tuple else (buffer.array,))
        ]
        return found + self._gpu_id_arrays

    def wait_for_copies(self, stream: Any = None) -> None:
        """Blocks until no running copy is in the way of these pages; with a stream, lets that
        stream wait instead. Pages of buffers that belong to no pool are not looked after."""
        for hazards, ids, access in self._accesses:
            hazards.wait(ids, access, stream)

    def record(self, ticket: Ticket) -> Ticket:
        """From now on others wait for this copy; returns its ticket."""
        for hazards, ids, access in self._accesses:
            hazards.record(ids, access, ticket)
        return ticket

    def _add(self, part: CopyPart) -> CopyPart:
        """The part with its plan."""
        src, src_page_ids, dst, dst_page_ids, plan = part
        _require_buffers(src, dst)
        if type(plan) is not Plan or plan.src is not src.spec or plan.dst is not dst.spec:
            plan = _plan_for(src, dst, plan)
            part = CopyPart(src, src_page_ids, dst, dst_page_ids, plan)
        if not dst.is_writable:
            raise LayoutError(f"destination: the array of a {dst.spec.name} buffer is read-only")
        src.require_alive("source")
        dst.require_alive("destination")
        src_ids = self._native_ids("source", src_page_ids)
        dst_ids = self._native_ids("destination", dst_page_ids)
        self.native.add(plan.native, src.native, src_ids, dst.native, dst_ids)
        if src.device != "cpu" or dst.device != "cpu":
            self._require_one_gpu(src, dst)
        if src.hazards is not None:
            self._accesses.append((src.hazards, _known(src_ids), Access.READ))
        if dst.hazards is not None:
            self._accesses.append((dst.hazards, _known(dst_ids), Access.WRITE))
        return part

    def _require_one_gpu(self, *buffers: PagedBuffer) -> None:
        for buffer in buffers:
            if buffer.device == "cpu":
                continue
            if self.gpu is not None and self.gpu.device != buffer.device:
                raise LayoutError(f"one copy on several GPUs: {self.gpu.device}, {buffer.device}")
            self.gpu = buffer

    def work(
        self,
        *,
        num_threads: int | None = None,
        num_sms: int | None = None,
        slot_bytes: int = SLOT_BYTES,
        on_null_stream: bool = False,
    ) -> Work:
        """The copy as its cost depends on it."""
        direction, facts = self.direction, self.native.facts
        num_device_lists = sum(part.num_device_id_lists for part in facts)
        parts = [
            replace(
                PartWork.of_plan(plan.native, part.num_positions, direction),
                align_bytes=part.align_bytes,
            )
            for part, plan in zip(facts, self.plans, strict=True)
        ]
        return Work(
            direction,
            tuple(parts),
            num_threads=num_threads or _C.num_usable_cpus(),
            num_sms=num_sms,
            slot_bytes=slot_bytes,
            has_host_ids=num_device_lists < 2 * len(facts),
            has_device_ids=num_device_lists > 0,
            on_null_stream=on_null_stream,
        )

    def _native_ids(self, side: str, ids: PageIds) -> npt.NDArray[Any] | _C.IdArray:
        if not is_on_gpu(ids):
            return host_page_ids(side, ids)
        seen = gpu_page_ids(side, ids)
        self._gpu_ids.append((side, seen))
        self._gpu_id_arrays.append(ids)
        return _C.IdArray(address=seen.address, width=seen.itemsize, size=seen.shape[0])

    def explain(self, *, model: DeviceModel = PCIE5, num_threads: int | None = None) -> str:
        """The plan of every part, and what the copy costs by each executor; for people."""
        texts = [f"part {i}: {plan.explain_runs()}" for i, plan in enumerate(self.plans)]
        return "\n".join([*texts, explain_cost([self.work(num_threads=num_threads)], model)])


def whole_pages(src: PagedBuffer, dst: PagedBuffer, order: RunOrder = RunOrder.PAGES) -> Plan:
    """The plan of a copy that was given none."""
    _require_buffers(src, dst)
    return make_plan(src.spec, dst.spec, ascending=ascending_side(src.device), order=order)


def _require_buffers(src: PagedBuffer, dst: PagedBuffer) -> None:
    require_kind("source", src, PagedBuffer)
    require_kind("destination", dst, PagedBuffer)


def _known(ids: npt.NDArray[Any] | _C.IdArray) -> Ids | None:
    return None if isinstance(ids, _C.IdArray) else ids


def _plan_for(src: PagedBuffer, dst: PagedBuffer, plan: Plan | None) -> Plan:
    if plan is None:
        return whole_pages(src, dst)
    require_kind("plan", plan, Plan)
    if plan.src != src.spec or plan.dst != dst.spec:
        raise LayoutError(
            f"the plan is for {plan.src.name} -> {plan.dst.name} of other extents or strides than "
            f"the buffers {src.spec.name} -> {dst.spec.name}"
        )
    return plan
