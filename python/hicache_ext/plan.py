"""Plans: how the pages of one layout become pages of another, in as few runs as possible."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from functools import lru_cache
from typing import NamedTuple

from hicache_ext import _C
from hicache_ext.checks import MAX_BYTES, require_kind, require_whole
from hicache_ext.copy_work import PartWork, Work
from hicache_ext.device_model import PCIE5, DeviceModel, Direction
from hicache_ext.errors import LayoutError
from hicache_ext.explain import explain_cost
from hicache_ext.layout import KvMask, LayoutSpec, Planes

_AXIS_NAMES = {32: "layer", 16: "kv", 8: "group", 4: "fine_group", 2: "token", 1: "head"}


class Side(Enum):
    """A side of a copy."""

    SOURCE = "source"
    DESTINATION = "destination"


class RunOrder(Enum):
    """What of a copy comes first: page after page, or all pages of a layer before the next one."""

    PAGES = "pages"
    LAYERS = "layers"


def ascending_side(src_device: str) -> Side:
    """The side whose addresses should rise from run to run; src_device is "cpu" or "cuda:N".

    The host's: its end of a PCIe link wants whole lines in order. Of two hosts the source's: a CPU
    waits for what it reads and not for what it streams out.
    """
    return Side.SOURCE if src_device == "cpu" else Side.DESTINATION


class PlanAxis(NamedTuple):
    """An axis around the run; `name` lists what was merged into it, as in "layer*kv"."""

    name: str
    extent: int
    src_stride: int  # bytes
    dst_stride: int  # bytes
    src_planes: int = 0  # entries of the plane table
    dst_planes: int = 0


def _names(bits: int) -> str:
    return "*".join(name for bit, name in _AXIS_NAMES.items() if bits & bit)


@dataclass(frozen=True, eq=False)
class Plan:
    """One page copy as contiguous runs. Made by make_plan, good for any number of copies."""

    src: LayoutSpec
    dst: LayoutSpec
    layers: tuple[int, int]
    kv: KvMask
    heads: tuple[int, int]
    tokens: tuple[int, int]
    ascending: Side
    order: RunOrder
    native: _C.Plan = field(repr=False)

    @property
    def run_bytes(self) -> int:
        """Bytes that are contiguous on both sides."""
        return self.native.run_bytes

    @property
    def runs_per_page(self) -> int:
        return self.native.runs_per_page

    @property
    def page_bytes(self) -> int:
        """Bytes that the plan moves of each page: all of it, or its window."""
        return self.run_bytes * self.runs_per_page

    @property
    def axes(self) -> tuple[PlanAxis, ...]:
        """The axes around the run, outermost first."""
        return tuple(PlanAxis(_names(bits), *rest) for bits, *rest in self.native.axes)

    def explain(
        self,
        num_pages: int | None = None,
        *,
        model: DeviceModel = PCIE5,
        num_threads: int | None = None,
    ) -> str:
        """The plan for people: what was merged, the runs, the alignment, and what a copy costs.

        The cost is that of num_pages, by default all pages of the smaller side, by each executor
        between all memories; num_threads of the CPU, by default all.
        """
        num_pages = min(self.src.num_pages, self.dst.num_pages) if num_pages is None else num_pages
        works = [
            Work(
                direction,
                (PartWork.of_plan(self.native, num_pages, direction),),
                num_threads=num_threads or _C.num_usable_cpus(),
            )
            for direction in Direction
        ]
        return f"{self.explain_runs()}\n{explain_cost(works, model)}"

    def explain_runs(self) -> str:
        """The plan alone, without what it costs."""
        merged = _names(self.native.run_bits)
        run = f"{merged}*byte" if merged else "byte"
        lines = [
            f"{self.src.name} -> {self.dst.name}: layers {self.layers[0]}..{self.layers[1]}, "
            f"{self.kv.name} of num_kv={self.src.num_kv}, heads {self.heads[0]}..{self.heads[1]}, "
            f"tokens {self.tokens[0]}..{self.tokens[1]}",
            f"  run   {run}: {self.run_bytes} B contiguous on both sides",
        ]
        for axis in self.axes:
            src = _step(axis.src_stride, axis.src_planes)
            dst = _step(axis.dst_stride, axis.dst_planes)
            lines.append(f"  axis  {axis.name}: {axis.extent} steps of {src} -> {dst}")
        lines.append(
            f"  page  {self.runs_per_page} runs, {self.page_bytes} B; strides "
            f"{self.src.stride_page} B -> {self.dst.stride_page} B; every address a multiple of "
            f"{self.native.align_bytes} B from its buffer; {self.ascending.value} addresses ascend"
        )
        if (num_steps := self.native.num_steps) > 1:
            lines.append(f"  order all pages of a layer, then of the next; {num_steps} layers")
        return "\n".join(lines)


def _step(stride: int, planes: int) -> str:
    return f"{planes} in the table" if planes else f"{stride} B"


def make_plan(
    src: LayoutSpec,
    dst: LayoutSpec,
    *,
    layers: tuple[int, int] | None = None,
    kv: KvMask = KvMask.BOTH,
    heads: tuple[int, int] | None = None,
    tokens: tuple[int, int] | None = None,
    ascending: Side = Side.SOURCE,
    order: RunOrder = RunOrder.PAGES,
) -> Plan:
    """The plan from `src` pages to `dst` pages, whole or a window of them.

    layers, heads: half-open ranges, by default all; heads may not cut a head group of either side.
    tokens: half-open range inside of each page, by default all.
    kv: K, V or both; a latent cache (num_kv=1) has only BOTH.
    ascending: the side whose addresses rise from run to run, see ascending_side().
    order: with LAYERS layer 0 of all pages is there first, for a model that begins with it. Runs
    then end with their layer, a launch has at most eight layers, and staged cannot do it.
    LayoutError where the two differ in a page's extents or the window does not lie inside.
    """
    return _make_plan(
        src,
        dst,
        (0, src.num_layers) if layers is None else _window("layers", layers),
        kv,
        (0, src.num_heads) if heads is None else _window("heads", heads),
        (0, src.page_size) if tokens is None else _window("tokens", tokens),
        ascending,
        order,
    )


def _window(name: str, window: tuple[int, int]) -> tuple[int, int]:
    try:
        begin, end = window
    except (TypeError, ValueError):
        raise LayoutError(f"{name}={window!r} is no range (begin, end)") from None
    return (
        require_whole(f"{name}[0]", begin, least=0, most=MAX_BYTES),
        require_whole(f"{name}[1]", end, least=0, most=MAX_BYTES),
    )


@lru_cache(maxsize=256)
def _make_plan(
    src: LayoutSpec,
    dst: LayoutSpec,
    layers: tuple[int, int],
    kv: KvMask,
    heads: tuple[int, int],
    tokens: tuple[int, int],
    ascending: Side,
    order: RunOrder,
) -> Plan:
    for name, value, kind in (
        ("kv", kv, KvMask),
        ("ascending", ascending, Side),
        ("order", order, RunOrder),
    ):
        require_kind(name, value, kind)
    if src.num_kv == 1 and kv is not KvMask.BOTH:
        raise LayoutError(f"kv={kv.name} of a latent cache (num_kv=1)")
    native = _C.make_plan(
        _native(src),
        _native(dst),
        layers=layers,
        kv=kv.value if src.num_kv == 2 else (0, 1),
        heads=heads,
        tokens=tokens,
        ascending=_C.Ascending.SOURCE if ascending is Side.SOURCE else _C.Ascending.DESTINATION,
        order=order.value,
    )
    return Plan(src, dst, layers, kv, heads, tokens, ascending, order, native)


def _native(spec: LayoutSpec) -> _C.PageLayout:
    return _C.PageLayout(
        planes=_C.Planes.TABLE if spec.planes is Planes.TABLE else _C.Planes.ONE_BUFFER,
        num_pages=spec.num_pages,
        page_size=spec.page_size,
        num_layers=spec.num_layers,
        num_kv=spec.num_kv,
        num_heads=spec.num_heads,
        head_bytes=spec.head_bytes,
        num_groups=spec.num_groups,
        stride_page=spec.stride_page,
        stride_layer=spec.stride_layer,
        stride_kv=spec.stride_kv,
        stride_group=spec.stride_group,
        stride_token=spec.stride_token,
        stride_head=spec.stride_head,
    )
