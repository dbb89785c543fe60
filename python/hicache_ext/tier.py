"""The three tiers of the hierarchy."""

from enum import IntEnum


class Tier(IntEnum):
    """Where a page lives."""

    DEVICE = 0  # L1: GPU memory, or ordinary memory on a machine without one
    HOST = 1  # L2: host memory, pinned when there is a GPU
    STORAGE = 2  # L3: a page store
