"""Checks on page ids that callers hand in."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from numbers import Integral

from hicache_ext.errors import TreeError

HOLE = -1


def is_whole(count: object) -> bool:
    """Whether `count` is a number of pages, not a part of one, NumPy's numbers included."""
    return isinstance(count, Integral) and not isinstance(count, bool)


def checked_ids(ids: Sequence[int], what: str, num_pages: int | None, *, lowest: int) -> list[int]:
    """`ids` as a list of ints; TreeError for a wrong length, an id below `lowest` or no integer."""
    try:
        checked = array("q", ids).tolist()
    except (TypeError, OverflowError) as error:
        raise TreeError(f"{what}: page ids must be 64-bit integers: {error}") from None
    if num_pages is not None and len(checked) != num_pages:
        raise TreeError(f"{what}: {len(checked)} page ids for {num_pages} pages")
    if checked and min(checked) < lowest:
        position = next(i for i, page in enumerate(checked) if page < lowest)
        raise TreeError(f"{what}: page id {checked[position]} at position {position}")
    return checked


def foreign(ids: Sequence[int], held: Sequence[int]) -> list[int]:
    """The ids that are handed over and differ from what is held at the same place."""
    if ids == held:
        return []
    return [page for page, own in zip(ids, held, strict=True) if page >= 0 and page != own]
