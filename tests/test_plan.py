"""Plans: how axes merge into runs. That runs lie where the layouts say: test_copy_affine.py."""

from __future__ import annotations

import math
import random
import re

import pytest

from hicache_ext import _C
from hicache_ext.errors import LayoutError, PageIndexError
from hicache_ext.layout import KvMask, LayoutSpec
from hicache_ext.plan import Side, make_plan

# 70B-like: 8 heads of 128 bf16, page 16.
SIZES = dict(num_pages=10, page_size=16, num_layers=32, num_heads=8, head_bytes=256)


def spec(name: str, **changes: int) -> LayoutSpec:
    return LayoutSpec.make(name, **{**SIZES, **changes})


@pytest.mark.parametrize(
    ("src", "dst", "run_bytes", "runs"),
    [
        # Rows of the table in notes on runs per layout pair: P*H*D*e, H*D*e, D*e.
        (spec("layer_first"), spec("layer_first"), 16 * 8 * 256, 64),
        (spec("layer_first"), spec("page_unified"), 16 * 8 * 256, 64),
        (spec("layer_first"), spec("page_first"), 8 * 256, 1024),
        (spec("layer_first"), spec("page_unified", num_groups=8), 256, 8192),
        (spec("layer_first"), spec("page_unified", num_groups=2), 4 * 256, 2048),
        (spec("page_unified"), spec("page_unified"), 2 * 32 * 16 * 8 * 256, 1),
        (spec("page_unified", num_groups=2), spec("page_unified", num_groups=2), 1 << 21, 1),
        (spec("page_first"), spec("page_first"), 16 * 32 * 8 * 256, 2),
    ],
)
def test_runs(src: LayoutSpec, dst: LayoutSpec, run_bytes: int, runs: int) -> None:
    for plan in (make_plan(src, dst), make_plan(dst, src)):
        assert (plan.run_bytes, plan.runs_per_page) == (run_bytes, runs)
        assert plan.page_bytes == src.page_bytes == 1 << 21


def test_windows_shrink_what_moves() -> None:
    src, dst = spec("layer_first"), spec("page_unified", num_groups=4)
    plan = make_plan(src, dst, layers=(8, 12), kv=KvMask.V, heads=(2, 4))
    assert plan.page_bytes == 4 * 1 * 16 * 2 * 256
    assert plan.run_bytes == 2 * 256
    assert [axis.name for axis in plan.axes] == ["layer", "token"]
    # One head group of one object is a single run even over many layers.
    same = make_plan(dst, dst, layers=(8, 12), heads=(2, 4))
    assert (same.runs_per_page, same.run_bytes) == (1, 4 * 2 * 16 * 2 * 256)


def test_neighbouring_axes_merge() -> None:
    src, dst = spec("page_unified"), spec("page_unified", num_groups=8)
    plan = make_plan(src, dst, ascending=Side.DESTINATION)
    assert [axis.name for axis in plan.axes] == ["fine_group", "layer*kv*token"]


def test_the_chosen_side_ascends() -> None:
    src, dst = spec("layer_first"), spec("page_unified")
    for side, index in ((Side.SOURCE, 0), (Side.DESTINATION, 1)):
        plan = make_plan(src, dst, ascending=side)
        places = [plan.native.locate(3, 4, run)[index][1] for run in range(plan.runs_per_page)]
        assert places == sorted(places)


def test_explain() -> None:
    text = make_plan(spec("layer_first"), spec("page_unified"), kv=KvMask.K).explain_runs()
    assert text == (
        "layer_first -> page_unified: layers 0..32, K of num_kv=2, heads 0..8, "
        "tokens 0..16\n"
        "  run   token*head*byte: 32768 B contiguous on both sides\n"
        "  axis  layer: 32 steps of 327680 B -> 65536 B\n"
        "  page  32 runs, 1048576 B; strides 32768 B -> 2097152 B; every address a multiple of "
        "128 B from its buffer; source addresses ascend"
    )


def test_addresses_are_64_bit() -> None:
    sizes = dict(page_size=64, num_layers=80, num_heads=8, head_bytes=256)
    src = LayoutSpec.make("layer_first", num_pages=1 << 20, **sizes)
    dst = LayoutSpec.make("page_unified", num_pages=1 << 20, **sizes)
    plan = make_plan(src, dst)
    last = (1 << 20) - 1
    (_, src_at), (_, dst_at) = plan.native.locate(last, last, plan.runs_per_page - 1)
    assert src_at == src.num_bytes - plan.run_bytes
    assert dst_at == dst.num_bytes - plan.run_bytes
    assert dst_at > 1 << 43


@pytest.mark.parametrize(
    ("num_tokens", "num_heads", "num_layers"),
    [(2**20 + 1, 4099, 5), (2**31 + 9, 1, 3), (3, 2, 2**31 - 1), (7, 2**31, 1)],
)
def test_more_runs_than_32_bits_count(num_tokens: int, num_heads: int, num_layers: int) -> None:
    """Every byte is a run: the page is cut into boxes of fewer than 2^31 runs each, and the runs of
    a box follow on those of the one before."""
    heads, layers = 2 * num_heads + 2, num_layers  # gaps: nothing merges
    tokens = heads * num_tokens
    extents = {"head": num_heads, "token": num_tokens, "layer": num_layers}
    src_strides = {"head": 2, "token": heads, "layer": tokens}
    dst_strides = {"layer": 3, "head": 3 * layers, "token": 3 * layers * num_heads}
    src, dst = (
        LayoutSpec.strided({axis: (extents[axis], s[axis]) for axis in extents}, head_bytes=1)
        for s in (src_strides, dst_strides)
    )
    plan = make_plan(src, dst)
    num_runs = num_layers * num_tokens * num_heads
    assert (plan.run_bytes, plan.runs_per_page) == (1, num_runs) and num_runs > 2**31
    rng = random.Random(0)
    edges = [edge + i for edge in range(0, num_runs, 2**31 - 1) for i in (-1, 0, 1)]
    for run in [*edges[1:], num_runs - 1, *(rng.randrange(num_runs) for _ in range(50))]:
        rest, head = divmod(run, num_heads)  # the source ascends
        layer, token = divmod(rest, num_tokens)
        (_, src_at), (_, dst_at) = plan.native.locate(0, 0, run)
        assert src_at == layer * tokens + token * heads + head * 2
        assert dst_at == 3 * (layer + layers * (head + num_heads * token))


def test_fast_div_is_exact() -> None:
    rng = random.Random(0)
    top = 2**31 - 1
    divisors = [1, 2, 3, 5, 7, 641, 65535, 65536, 65537, 2**30, 2**30 + 1, top - 1, top]
    divisors += [rng.randint(1, top) for _ in range(300)]
    for divisor in divisors:
        multiples = [divisor * rng.randint(0, top // divisor) for _ in range(5)]
        for n in [0, 1, top, *multiples, *(m - 1 for m in multiples if m), rng.randint(0, top)]:
            assert _C.fast_div(n, divisor) == n // divisor, (n, divisor)
    for divisor in (0, 2**31):
        with pytest.raises(LayoutError, match=f"divisor={divisor}"):
            _C.fast_div(1, divisor)


@pytest.mark.parametrize("what", ["page_size", "num_layers", "num_heads", "head_bytes"])
def test_pages_must_be_alike(what: str) -> None:
    other = spec("page_unified", **{what: SIZES[what] * 2})
    with pytest.raises(LayoutError, match=f"src.{what}={SIZES[what]} dst.{what}={SIZES[what] * 2}"):
        make_plan(spec("layer_first"), other)


def test_windows_that_do_not_fit() -> None:
    src, dst = spec("layer_first"), spec("page_unified", num_groups=2)
    for layers in ((3, 3), (4, 2), (0, 33)):
        with pytest.raises(LayoutError, match=r"layer window \[.*\[0, 32\)"):
            make_plan(src, dst, layers=layers)
    with pytest.raises(LayoutError, match=r"head window \[0, 9\)"):
        make_plan(src, dst, heads=(0, 9))
    with pytest.raises(LayoutError, match=r"head window \[2, 6\) cuts a group of 4 heads"):
        make_plan(src, dst, heads=(2, 6))
    for wrong in (5, (1,), (0, 1, 2)):
        with pytest.raises(LayoutError, match=re.escape(f"tokens={wrong!r} is no range")):
            make_plan(src, dst, tokens=wrong)
    for wrong in (-1, 2.0, math.nan, True, "1", 2**70):
        with pytest.raises(LayoutError, match=re.escape(f"heads[1]={wrong!r} must be a whole")):
            make_plan(src, dst, heads=(0, wrong))
    for name in ("kv", "ascending", "order"):
        with pytest.raises(LayoutError, match=f"{name}='both' is no "):
            make_plan(src, dst, **{name: "both"})
    latent = spec("layer_first", num_kv=1)
    with pytest.raises(LayoutError, match="latent"):
        make_plan(latent, latent, kv=KvMask.K)
    with pytest.raises(LayoutError, match=r"src.num_groups=2 dst.num_groups=3"):
        make_plan(
            spec("page_unified", num_heads=6, num_groups=2),
            spec("page_unified", num_heads=6, num_groups=3),
        )
    with pytest.raises(PageIndexError, match="run=64 runs_per_page=64"):
        make_plan(src, spec("page_unified")).native.locate(0, 0, 64)
