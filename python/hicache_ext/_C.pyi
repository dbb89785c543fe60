"""The native module; one section per file of csrc/bindings/."""

from collections.abc import Mapping
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

_Slot = TypeVar("_Slot", bound=tuple[Any, ...])

# --- module.cpp
with_cuda: bool

# --- keys.cpp
def has_sha_ni() -> bool: ...
def sha256(data: bytes, impl: str = "auto") -> bytes: ...
def page_keys(tokens: bytes, page_size: int, seed: bytes, impl: str = "auto") -> list[bytes]: ...

# --- agreement.cpp: the lanes of a tick
LANE_NEUTRAL: int
LANE_FORMAT: int
MAX_LANE_POOLS: int

class LaneSchema:
    def __init__(self, hash: int, num_pools: int, num_slots: int) -> None: ...
    @property
    def num_lanes(self) -> int: ...

def lanes_pack(
    schema: LaneSchema,
    epoch: int,
    digest: int,
    slots: Mapping[int, tuple[Any, ...]],
) -> npt.NDArray[np.int64]: ...
def lanes_unpack(
    schema: LaneSchema,
    agreed: npt.NDArray[np.int64],
    mine: npt.NDArray[np.int64],
    slot_type: type[_Slot],
) -> tuple[tuple[int, int, int, int], dict[int, _Slot]]: ...
