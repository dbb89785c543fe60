"""Bad page ids of copies: a typed error that names side, position and value; nothing is written,
and the next copy works. The rest of the list of bad input: test_copy_bad_input.py."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from array_objects import on_gpu
from pages import POISON
from refused_copies import DST, ON_CPU, ON_STREAM, PAGE_BYTES, Bad, check_refused, params, stage_of

from hicache_ext.errors import PageIndexError

IDS = np.array([0, 1, 2])

BAD = {
    "page id out of range": [
        Bad(
            f"source .* position=1 value={2**32} num_pages=4", PageIndexError, src_ids=[0, 2**32, 1]
        ),
        Bad(
            "source .* position=0 value=99", PageIndexError, src_ids=[99, 0, 1], dst_ids=[-1, 1, 2]
        ),
        Bad(
            "destination .* position=2 value=6",
            PageIndexError,
            src_ids=[0, 1, -1],
            dst_ids=[0, 1, 6],
        ),
        Bad("destination page id twice: position=2 value=5", PageIndexError, dst_ids=[5, 0, 5]),
    ],
    "wrong length pair": [
        Bad("source=2 destination=3 part=0", src_ids=[0, 1]),
        Bad("source=3 destination=0", dst_ids=[]),
        Bad("source=3 destination=4", dst_ids=np.arange(4)),
        Bad("source=3 destination=2", dst_ids=torch.arange(2)),
    ],
    "wrong dtype of ids": [
        Bad("source page ids: position=1 value=1.0 is no integer", src_ids=[0, 1.0, 2]),
        Bad("source page ids: position=2 value=nan is no integer", src_ids=[0, 1, math.nan]),
        Bad("destination page ids: position=0 value=True is no integer", dst_ids=[True, 1, 2]),
        Bad("destination page ids: position=0 value='0' is no integer", dst_ids="012"),
        Bad(f"source .* position=1 value={2**63} does not fit", src_ids=[0, 2**63, 1]),
        Bad("source .* value=18446744073709551615 does", src_ids=[0, 1, np.uint64(2**64 - 1)]),
        Bad(r"source page ids .* not float64 \[3\]", src_ids=IDS.astype(float)),
        Bad(r"source page ids .* not bool \[3\]", src_ids=IDS > 0),
        Bad(r"destination page ids .* not uint64 \[3\]", dst_ids=IDS.astype(np.uint64)),
        Bad(r"destination page ids .* not int16 \[3\]", dst_ids=IDS.astype(np.int16)),
        Bad(r"destination page ids .* not >i8 \[3\]", dst_ids=IDS.astype(">i8")),
        Bad(r"source page ids .* not int64 \[1, 3\]", src_ids=IDS[None]),
        Bad(r"source page ids .* not int64 \[\]", src_ids=np.array(3)),
        Bad("destination page ids in a masked array", dst_ids=np.ma.masked_equal(IDS, 1)),
        Bad("destination page ids .* not torch.float32 on cpu", dst_ids=torch.zeros(3)),
        Bad("source page ids are not a sequence: int", src_ids=3),
        Bad("source page ids are not a sequence: NoneType", src_ids=None),
        Bad(
            r"source page ids .* not float32 \[3\]",
            on=("sm_reg",),
            src_ids=lambda s: s.on_gpu(np.zeros(3, np.float32)),
        ),
    ],
    "wrong device of ids": [
        Bad("source .* not torch.int64 on meta", src_ids=torch.zeros(3, dtype=int, device="meta")),
        Bad("source page ids in GPU memory", on=ON_CPU, src_ids=on_gpu(4096, (3,), "<i8")),
        Bad(
            "destination page ids on cuda:1 for a copy on cuda:0",
            on=ON_STREAM,
            dst_ids=lambda s: s.on_gpu(IDS, device=1),
        ),
        *(
            Bad(
                f"{name} needs page ids on the host: the source ids of part=0",
                on=(name,),
                src_ids=lambda s: s.on_gpu(IDS),
            )
            for name in ("ce_batch", "staged")
        ),
    ],
}


@pytest.mark.parametrize("bad", params(BAD))
def test_it_is_refused(bad: Bad) -> None:
    check_refused(bad)


@pytest.mark.parametrize("make", [list, tuple, np.int32, np.int64, torch.tensor])
@pytest.mark.parametrize("position", [0, 1, 2])
@pytest.mark.parametrize(("side", "num_pages"), [("source", 4), ("destination", 6)])
def test_page_id_out_of_range(side: str, num_pages: int, position: int, make: Any) -> None:
    for value in (num_pages, 2**31 - 1):
        ids = [0, 1, 2]
        ids[position] = value
        where = f"position={position} value={value} num_pages={num_pages}"
        bad = Bad(
            f"{side} page id out of range: {where}",
            PageIndexError,
            **{"src_ids" if side == "source" else "dst_ids": make(ids)},
        )
        check_refused(bad)


@pytest.mark.parametrize("dtype", [np.int32, np.int64])
@pytest.mark.parametrize("position", [0, 1, 2])
@pytest.mark.parametrize(("side", "num_pages"), [("source", 4), ("destination", 6)])
def test_page_id_out_of_range_that_only_the_gpu_knows(side, num_pages, position, dtype) -> None:
    """Its page is skipped, the others are copied, and the ticket tells of it."""
    for executor in ("sm_reg", "sm_bulk", "auto"):
        with stage_of(executor) as stage:
            ids = np.arange(3, dtype=dtype)
            ids[position] = num_pages
            key = "src_ids" if side == "source" else "dst_ids"
            ticket = stage.copy(**{key: stage.on_gpu(ids)})
            wanted = f"{side} page id out of range: position={position} value={num_pages}"
            for _ in range(2):  # whoever asks again is told again
                with pytest.raises(PageIndexError, match=wanted):
                    ticket.result()
            pages = stage.target.bytes.reshape(DST.num_pages, -1)
            assert [set(page) for page in pages.tolist()] == [
                {1} if page < 3 and page != position else {POISON} for page in range(6)
            ]
            stage.target.check_guards()
            assert stage.copy().result() == 3 * PAGE_BYTES
