"""Copies for the tests of the cost model."""

from __future__ import annotations

from hicache_ext.copy_work import PartWork, Work
from hicache_ext.cost import predict
from hicache_ext.device_model import KIB, PCIE5, DeviceModel, Direction

H2H, H2D = Direction.HOST_TO_HOST, Direction.HOST_TO_DEVICE
D2H, D2D = Direction.DEVICE_TO_HOST, Direction.DEVICE_TO_DEVICE
MIB = 1024 * KIB


def runs(run_bytes: int, num_runs: int, direction: Direction = H2D, **options: object) -> Work:
    """A copy of num_runs pages of one run; `options` are Work's."""
    return Work(direction, (PartWork(num_runs, 1, run_bytes),), **options)  # type: ignore[arg-type]


def seconds(work: Work, executor: str, model: DeviceModel = PCIE5) -> float:
    predicted = predict(work, executor, model).seconds
    assert predicted is not None
    return predicted


def bps(work: Work, executor: str, model: DeviceModel = PCIE5) -> float:
    return work.num_bytes / seconds(work, executor, model)
