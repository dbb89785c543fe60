"""What arguments must be: a LayoutError with name and value where they are not."""

from __future__ import annotations

import numbers
from typing import Any

from hicache_ext.errors import LayoutError


def require_count(name: str, value: Any, most: int | None = None) -> int:
    """A whole number of at least 1, and of at most `most`."""
    is_whole = isinstance(value, numbers.Integral) and not isinstance(value, bool)
    if not is_whole or value < 1 or (most is not None and value > most):
        bounds = "of at least 1" if most is None else f"from 1 to {most}"
        raise LayoutError(f"{name}={value!r} must be a whole number {bounds}")
    return int(value)
