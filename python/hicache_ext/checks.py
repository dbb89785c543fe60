"""What arguments must be: a LayoutError with name and value where they are something else."""

from __future__ import annotations

import numbers
from typing import Any

from hicache_ext.errors import LayoutError

MAX_INT = 2**31 - 1
MAX_BYTES = 2**62  # sums of sizes and addresses stay inside of int64
MAX_WORKERS = 4096  # SMs or threads; what is more is a mistake


def require_whole(name: str, value: Any, least: int = 1, most: int | None = None) -> int:
    """A whole number of at least `least` and at most `most`."""
    is_whole = isinstance(value, numbers.Integral) and not isinstance(value, bool)
    if not is_whole or value < least or (most is not None and value > most):
        bounds = f"of at least {least}" if most is None else f"from {least} to {most}"
        raise LayoutError(f"{name}={value!r} must be a whole number {bounds}")
    return int(value)


def require_kind(name: str, value: Any, kind: type) -> None:
    if not isinstance(value, kind):
        # An array may be long, and lie on a GPU.
        is_short = value is None or isinstance(value, (str, numbers.Number))
        shown = repr(value) if is_short else f"<{type(value).__name__}>"
        raise LayoutError(f"{name}={shown} is no {kind.__name__}")
