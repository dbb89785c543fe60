"""executor="auto": what is known of each GPU, and the executor that it makes the fastest."""

from __future__ import annotations

import logging
import threading
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from hicache_ext import _C
from hicache_ext.calibration import calibrate
from hicache_ext.copy_work import Work
from hicache_ext.cost import choose
from hicache_ext.cuda_copy import CUDA_EXECUTORS
from hicache_ext.device_model import DeviceModel, default_model
from hicache_ext.device_probe import DeviceProbe, device_facts
from hicache_ext.errors import CapacityError, CudaError
from hicache_ext.model_cache import load_model, save_model
from hicache_ext.plan_set import PlanSet

_MAX_CHOICES = 4096
logger = logging.getLogger("hicache_ext")


@dataclass
class _Device:
    """A GPU's model, and the executors that it made the fastest."""

    model: DeviceModel
    is_final: bool  # there is nothing to measure any more
    chosen: dict[tuple[object, ...], str] = field(default_factory=dict)


_devices: dict[int, _Device] = {}
_lock = threading.Lock()


def gpu_model(device: int = 0) -> DeviceModel:
    """What GPU `device` can do: from the cache on disk, else measured now and kept there.

    Measuring takes less than half a second and 96 MiB, once for each device, driver and link; the
    first copy with executor="auto" does it unless it was done. Without the memory for it the
    published figures stand in, and a warning says so. CudaError without such a GPU.
    """
    return _known(device, may_measure=True).model


class Asked(NamedTuple):
    """What the choice depends on besides the parts and the GPU."""

    num_sms: int | None
    slot_bytes: int  # of the staging memory
    on_null_stream: bool


def choose_executor(parts: PlanSet, device: int, stream: int, asked: Asked) -> str:
    """The executor for a copy with GPU `device` that is enqueued on `stream`.

    Choices are remembered by all that they depend on, with the page counts to two digits.
    """
    is_capturing = _C.is_capturing(device, stream)
    known = _known(device, may_measure=not is_capturing)
    each = [
        (part.plan, _rounded(facts.num_positions), facts.align_bytes, facts.num_device_id_lists)
        for part, facts in zip(parts.parts, parts.native.facts, strict=True)
    ]
    ways = [(part.src.device, part.dst.device) for part in parts.parts]
    key = (is_capturing, asked, *each, *ways)
    found = known.chosen.get(key)
    if found is None:
        if len(known.chosen) >= _MAX_CHOICES:
            known.chosen.clear()
        work = replace(parts.work(**asked._asdict()), is_capturing=is_capturing)
        # The model tells one direction only.
        found = "sm_reg" if len(set(ways)) > 1 else _fastest(work, known.model)
        known.chosen[key] = found
    return found


def _fastest(work: Work, model: DeviceModel) -> str:
    executor = choose(work, model, CUDA_EXECUTORS).executor
    assert executor is not None  # sm_reg can do every copy
    return executor


def _rounded(count: int) -> int:
    """Four bits of it."""
    shift = max(count.bit_length() - 4, 0)
    return count >> shift << shift


def _known(device: int, *, may_measure: bool) -> _Device:
    known = _devices.get(device)
    if known is not None and (known.is_final or not may_measure):
        return known
    with _lock:
        known = _devices.get(device)
        if known is None or not known.is_final:
            known = _devices[device] = _learn(device, may_measure)
        return known


def _learn(device: int, may_measure: bool) -> _Device:
    facts = device_facts(device)
    if facts is None:
        identity = _C.device_identity(device)
        return _Device(default_model("unknown", identity.sm_version, identity.num_sms), True)
    published = default_model(facts.link, facts.sm_version, facts.num_sms)
    model = load_model(facts)
    if model is not None:
        return _Device(model, True)
    if not may_measure:
        return _Device(published, False)
    executors = [name for name in CUDA_EXECUTORS if name != "sm_bulk" or facts.sm_version >= 90]
    try:
        model = calibrate(facts, DeviceProbe(device), executors)
    except (CudaError, CapacityError) as error:
        logger.warning("cuda:%d is not measured, published figures stand in: %s", device, error)
        return _Device(published, True)
    save_model(facts, model)
    return _Device(model, True)
