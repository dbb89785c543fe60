"""Parts of one copy that share memory: which may, and what is wrong with the others."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from hicache_ext.copy_part import CopyPart
from hicache_ext.errors import LayoutError, PageIndexError
from hicache_ext.layout import PagedBuffer
from hicache_ext.page_ids import host_page_ids, is_on_gpu
from hicache_ext.plan import Plan


def require_apart(parts: Sequence[CopyPart], shared: Sequence[tuple[bool, int, int]]) -> None:
    """LayoutError where a part would read or write what another writes.

    shared: (whether it is a source, part, other part) whose buffer shares a byte with the
    destination of the other part.
    """
    for is_source, i, j in shared:
        if is_source:
            raise LayoutError(
                f"source and destination overlap: {_range(parts[i].src)} of part {i} and "
                f"{_range(parts[j].dst)} of part {j}"
            )
        _require_targets_apart(parts, i, j)


def _range(buffer: PagedBuffer) -> str:
    return f"{buffer.address:#x}+{buffer.spec.num_bytes}"


def _require_targets_apart(parts: Sequence[CopyPart], i: int, j: int) -> None:
    one, other = parts[i], parts[j]
    if one.dst.address != other.dst.address or one.dst.spec != other.dst.spec:
        raise LayoutError(
            f"destinations of parts {i} and {j} overlap and are not one buffer: "
            f"{_range(one.dst)} and {_range(other.dst)}"
        )
    if one.plan is None or other.plan is None or _windows_are_apart(one.plan, other.plan):
        return
    if is_on_gpu(one.dst_page_ids) or is_on_gpu(other.dst_page_ids):
        return  # that they differ is taken on trust, as inside of a part
    mine, theirs = _written(one), _written(other)
    twice = np.intersect1d(mine, theirs)
    for value in twice[twice >= 0][:1]:
        at = int(np.flatnonzero(mine == value)[0]), int(np.flatnonzero(theirs == value)[0])
        raise PageIndexError(
            f"destination page id twice: part={i} position={at[0]} and part={j} "
            f"position={at[1]} value={value}"
        )


def _windows_are_apart(one: Plan, other: Plan) -> bool:
    pairs = (
        (one.layers, other.layers),
        (one.kv.value, other.kv.value),
        (one.heads, other.heads),
        (one.tokens, other.tokens),
    )
    return any(a[1] <= b[0] or b[1] <= a[0] for a, b in pairs)


def _written(part: CopyPart) -> npt.NDArray[Any]:
    """Destination page ids by position, negative at holes of either side."""
    ids = host_page_ids("destination", part.dst_page_ids)
    if is_on_gpu(part.src_page_ids):
        return ids  # each may be written
    return np.where(host_page_ids("source", part.src_page_ids) < 0, -1, ids)
