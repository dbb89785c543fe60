"""Agreement of ranks: one packed MIN per tick, and the groups that carry it."""

from hicache_ext.agreement.group import DEPTH, Group
from hicache_ext.agreement.local import LocalGroup
from hicache_ext.agreement.schema import (
    NOT_MINE,
    AgreedSlot,
    SlotState,
    TickSchema,
    pack,
    unpack,
)

__all__ = [
    "DEPTH",
    "NOT_MINE",
    "AgreedSlot",
    "Group",
    "LocalGroup",
    "SlotState",
    "TickSchema",
    "pack",
    "unpack",
]
