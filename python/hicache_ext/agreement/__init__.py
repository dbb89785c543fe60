"""Agreement of ranks: one packed MIN per tick, and the groups that carry it.

TorchGroup is imported on first use: nothing else here needs torch.
"""

from typing import TYPE_CHECKING, Any

from hicache_ext.agreement.auto import make_group
from hicache_ext.agreement.group import DEPTH, Group
from hicache_ext.agreement.hierarchical import HierarchicalGroup
from hicache_ext.agreement.local import LocalGroup
from hicache_ext.agreement.nccl import NcclGroup
from hicache_ext.agreement.nccl_place import Reduction
from hicache_ext.agreement.schema import (
    NOT_MINE,
    AgreedSlot,
    AgreedTick,
    SlotState,
    TickHeader,
    TickSchema,
    pack,
    unpack,
)
from hicache_ext.agreement.shm import ShmGroup

if TYPE_CHECKING:
    from hicache_ext.agreement.torch_group import TorchGroup

__all__ = [
    "DEPTH",
    "NOT_MINE",
    "AgreedSlot",
    "AgreedTick",
    "Group",
    "HierarchicalGroup",
    "LocalGroup",
    "NcclGroup",
    "Reduction",
    "ShmGroup",
    "SlotState",
    "TickHeader",
    "TickSchema",
    "TorchGroup",
    "make_group",
    "pack",
    "unpack",
]


def __getattr__(name: str) -> Any:
    if name == "TorchGroup":
        from hicache_ext.agreement.torch_group import TorchGroup

        return TorchGroup
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
