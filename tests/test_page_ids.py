"""Page ids of token indices: whole pages in order, holes, and every token that is out of place."""

from __future__ import annotations

import array
import random
from typing import Any

import numpy as np
import pytest
import torch
from array_objects import HandMade, OnlyDlpack, on_gpu

import hicache_ext
from hicache_ext.copy import copy_pages
from hicache_ext.errors import LayoutError
from hicache_ext.layout import LayoutSpec, PagedBuffer
from hicache_ext.page_ids import page_ids_of_tokens


def tokens_of(page_ids: list[int], page_size: int) -> list[int]:
    """What an engine keeps of these pages."""
    return [
        page * page_size + i if page >= 0 else -1 for page in page_ids for i in range(page_size)
    ]


@pytest.mark.parametrize("page_size", [1, 2, 3, 16, 64])
def test_pages_come_back_from_their_tokens(page_size: int) -> None:
    for page_ids in ([], [0], [5, 3, 4, -1, 0], [-1, -1], [7] * 3):
        listed = tokens_of(page_ids, page_size)
        for token_ids in (listed, *(np.array(listed, dtype) for dtype in (np.int32, np.int64))):
            found = page_ids_of_tokens(token_ids, page_size)
            assert found.tolist() == page_ids and found.ndim == 1
            assert found.dtype == getattr(token_ids, "dtype", np.int64)


def test_every_kind_of_sequence() -> None:
    data = np.array(tokens_of([2, -1, 1], 4), np.int32)
    apart = np.repeat(data, 2)[::2]
    kinds = [torch.from_numpy(data), OnlyDlpack(torch.from_numpy(data)), apart, tuple(data)]
    for token_ids in (*kinds, array.array("q", data), memoryview(data), data.tolist()):
        assert page_ids_of_tokens(token_ids, np.int64(4)).tolist() == [2, -1, 1]


def test_holes_and_zero_tokens() -> None:
    assert page_ids_of_tokens([-5, -9, 2, 3, -1, -1], 2).tolist() == [-1, 1, -1]
    for token_ids in ([], np.zeros(0, np.int32), torch.zeros(0, dtype=torch.int64)):
        assert page_ids_of_tokens(token_ids, 2**31 - 1).tolist() == []  # and takes no memory


def test_the_result_is_what_copies_take() -> None:
    spec = LayoutSpec.opaque(num_pages=4, row_bytes=8, page_size=2)
    src = PagedBuffer(np.arange(spec.num_bytes, dtype=np.uint8), spec)
    dst = PagedBuffer(np.zeros(spec.num_bytes, np.uint8), spec)
    ids = [hicache_ext.page_ids_of_tokens(tokens, 2) for tokens in ([6, 7, -1, -1], [0, 1, 2, 3])]
    assert copy_pages(src, ids[0], dst, ids[1]).result() == spec.page_bytes
    assert dst.array.tolist() == [*range(48, 64), *[0] * 48]


@pytest.mark.parametrize(
    ("token_ids", "page_size", "message"),
    [
        ([0, 1, 2, 3, 5, 6, 7, 8], 4, "position=4 value=5 must be a multiple of page_size=4, whe"),
        (
            [0, 1, 2, 3, 8, 9, 11, 10],
            4,
            "position=6 value=11 must be 10, as its page begins with 8",
        ),
        ([4, 5, 4, 7], 4, "position=2 value=4 must be 6, as its page begins with 4"),
        ([4, 5, 6, -1], 4, "position=3 value=-1 must be 7, as its page begins with 4"),
        ([-1, -1, 2, -1], 4, "position=2 value=2 must be negative, as its page begins with -1"),
        ([0, 1, 2], 2, "3 are no whole pages of page_size=2"),
        ([0], 2**31 - 1, "1 are no whole pages of page_size=2147483647"),
        ([0.0], 1, "position=0 value=0.0 is no integer"),
        (["0"], 1, "position=0 value='0' is no integer"),
        (np.zeros(2), 1, r"must be int32 or int64 \[n\], not float64 \[2\]"),
        (np.zeros(2, np.uint32), 1, "not uint32"),
        (np.zeros((2, 2), np.int64), 2, r"not int64 \[2, 2\]"),
        (torch.zeros(2, dtype=torch.int16), 1, "not torch.int16 on cpu"),
        (torch.zeros(2, dtype=torch.int64, device="meta"), 1, "not torch.int64 on meta"),
        ([2**63], 1, "position=0 value=9223372036854775808 does not fit into int64"),
        (None, 1, "are not a sequence: NoneType"),
        (on_gpu(4096, (4,), "<i8"), 2, r"in GPU memory.*: pass page ids, token_ids\[::2\] // 2"),
        (HandMade(4096, (4,), dtype=(0, 32, 1)), 2, "in GPU memory"),
    ],
)
def test_what_is_no_page(token_ids: Any, page_size: int, message: str) -> None:
    with pytest.raises(LayoutError, match=f"token_ids.*{message}"):
        page_ids_of_tokens(token_ids, page_size)


@pytest.mark.parametrize("page_size", [0, -4, 2.0, float("nan"), True, "4", None, 2**31])
def test_page_sizes(page_size: Any) -> None:
    for token_ids in ([], [0, 1, 2, 3]):
        with pytest.raises(LayoutError, match=f"page_size={page_size!r} must be a whole number"):
            page_ids_of_tokens(token_ids, page_size)


@pytest.mark.parametrize("dtype", [np.int32, np.int64])
def test_the_last_tokens_that_a_dtype_has(dtype: Any) -> None:
    top = int(np.iinfo(dtype).max)
    whole = np.arange(top - 4, top, dtype=dtype) + 1  # ends with the largest number
    assert page_ids_of_tokens(whole, 4).tolist() == [top // 4]
    for page_size in (3, 5):  # they do not divide top + 1: the last page would wrap around
        first = top - top % page_size
        wrapped = [(first + i + top + 1) % (2 * (top + 1)) - (top + 1) for i in range(page_size)]
        with pytest.raises(LayoutError, match=f"position={top % page_size + 1} value=-{top + 1} "):
            page_ids_of_tokens(np.array(wrapped, dtype), page_size)


def first_out_of_place(tokens: list[int], page_size: int) -> int | None:
    """One token after the other."""
    for position, token in enumerate(tokens):
        first = tokens[position - position % page_size]
        is_in_order = first % page_size == 0 and token == first + position % page_size
        if not (token < 0 if first < 0 else is_in_order):
            return position
    return None


@pytest.mark.parametrize("page_size", [1, 2, 5, 16])
def test_the_first_token_out_of_place_is_named(page_size: int) -> None:
    rng = random.Random(page_size)
    num_wrong = 0
    for _ in range(300):
        page_ids = [rng.choice([-1, rng.randrange(1000)]) for _ in range(rng.randrange(1, 12))]
        tokens = tokens_of(page_ids, page_size)
        for _ in range(rng.randrange(3)):
            tokens[rng.randrange(len(tokens))] += rng.choice([-page_size, -1, 1, page_size, 10**6])
        wrong = first_out_of_place(tokens, page_size)
        if wrong is None:
            found = page_ids_of_tokens(tokens, page_size)
            assert tokens_of(found.tolist(), page_size) == [t if t >= 0 else -1 for t in tokens]
            continue
        num_wrong += 1
        with pytest.raises(LayoutError, match=f"position={wrong} value={tokens[wrong]} must be"):
            page_ids_of_tokens(np.array(tokens, rng.choice([np.int32, np.int64])), page_size)
    assert num_wrong > 100 or page_size == 1
