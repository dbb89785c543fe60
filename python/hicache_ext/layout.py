"""What a page looks like: extents and byte strides of a pool's buffer, as data."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from enum import Enum
from typing import TYPE_CHECKING

from hicache_ext import _C, arrays
from hicache_ext.errors import LayoutError

if TYPE_CHECKING:
    from hicache_ext.hazards import Hazards

# Axes of the buffer outermost first; the bytes of one head are innermost.
_ORDERS = {
    "layer_first": ("kv", "layer", "page", "token", "group", "head"),
    "page_first": ("kv", "page", "token", "layer", "group", "head"),
    "page_unified": ("page", "group", "layer", "kv", "token", "head"),
}
LAYOUT_NAMES = tuple(_ORDERS)

_MAX_BYTES = 1 << 62  # addresses and their sums stay inside int64


class KvMask(Enum):
    """Which of K and V a copy moves. A latent cache (num_kv=1) has only BOTH."""

    K = (0, 1)
    V = (1, 2)
    BOTH = (0, 2)


@dataclass(frozen=True)
class LayoutSpec:
    """A pool's buffer: byte (page, layer, kv, group, token, head) starts at
    page*stride_page + layer*stride_layer + ... + head*stride_head; `head` counts in its group.

    Head groups are the shards that another tensor-parallel degree would fetch: in page_unified the
    bytes of one group are contiguous. Strides are in bytes and must not make two elements overlap
    (LayoutError), nor may an extent be smaller than 1 or num_groups not divide num_heads.
    """

    name: str
    num_pages: int
    page_size: int  # tokens
    num_layers: int
    num_kv: int  # 2 = K and V, 1 = one latent
    num_heads: int
    head_bytes: int
    num_groups: int
    stride_page: int
    stride_layer: int
    stride_kv: int
    stride_group: int
    stride_token: int
    stride_head: int

    @classmethod
    def make(
        cls,
        name: str,
        *,
        num_pages: int,
        page_size: int,
        num_layers: int,
        num_heads: int,
        head_bytes: int,
        num_kv: int = 2,
        num_groups: int = 1,
    ) -> LayoutSpec:
        """A dense layout by name.

        "layer_first"   [kv, layer, page, token, head, byte]
        "page_first"    [kv, page, token, layer, head, byte]
        "page_unified"  [page, group, layer, kv, token, head, byte]: one contiguous object per page
        """
        if name not in _ORDERS:
            raise LayoutError(f"layout {name!r} is none of {', '.join(LAYOUT_NAMES)}")
        if num_groups < 1:
            raise LayoutError(f"num_groups={num_groups} must be at least 1")
        sizes = {
            "page": num_pages,
            "layer": num_layers,
            "kv": num_kv,
            "group": num_groups,
            "token": page_size,
            "head": num_heads // num_groups,
        }
        strides, step = {}, head_bytes
        for axis in reversed(_ORDERS[name]):
            strides[f"stride_{axis}"] = step
            step *= sizes[axis]
        return cls(
            name=name,
            num_pages=num_pages,
            page_size=page_size,
            num_layers=num_layers,
            num_kv=num_kv,
            num_heads=num_heads,
            head_bytes=head_bytes,
            num_groups=num_groups,
            **strides,
        )

    def __post_init__(self) -> None:
        names = [entry.name for entry in fields(self)[1:]]
        strides = [name for name in names if name.startswith("stride_")]
        _require_positive(self, [name for name in names if name not in strides])
        if self.num_kv > 2:
            raise LayoutError(f"num_kv={self.num_kv} must be 1 (one latent) or 2 (K and V)")
        if self.num_heads % self.num_groups:
            raise LayoutError(
                f"num_heads={self.num_heads} is no multiple of num_groups={self.num_groups}"
            )
        _require_positive(self, strides)
        if self.num_bytes >= _MAX_BYTES:
            raise LayoutError(f"num_bytes={self.num_bytes} does not fit into 62 bits")
        self._require_disjoint()

    def _axes(self) -> list[tuple[int, int, str]]:
        """(stride, extent, name) of every axis."""
        return [
            (self.stride_page, self.num_pages, "page"),
            (self.stride_layer, self.num_layers, "layer"),
            (self.stride_kv, self.num_kv, "kv"),
            (self.stride_group, self.num_groups, "group"),
            (self.stride_token, self.page_size, "token"),
            (self.stride_head, self.num_heads // self.num_groups, "head"),
        ]

    def _require_disjoint(self) -> None:
        """Axes nest: one step of an axis passes everything that the smaller ones span."""
        span = self.head_bytes
        for stride, extent, axis in sorted(self._axes()):
            if extent == 1:
                continue
            if stride < span:
                raise LayoutError(f"stride_{axis}={stride} overlaps the {span} bytes inside of it")
            span += (extent - 1) * stride

    @property
    def page_bytes(self) -> int:
        """Payload of one page, however scattered."""
        heads_bytes = self.num_heads * self.head_bytes
        return self.num_layers * self.num_kv * self.page_size * heads_bytes

    @property
    def num_bytes(self) -> int:
        """Extent of the whole buffer, gaps included."""
        return self.head_bytes + sum((extent - 1) * stride for stride, extent, _ in self._axes())

    @property
    def is_page_contiguous(self) -> bool:
        """Whether each page is page_bytes consecutive bytes."""
        spread = self.num_bytes - (self.num_pages - 1) * self.stride_page
        return spread == self.page_bytes

    def digest_fields(self) -> dict[str, int | str]:
        """What changes the bytes of one page object: for the namespaces of stores.

        The number of pages and the layout's name do not. LayoutError where a page is not
        contiguous, since then there is no page object.
        """
        if not self.is_page_contiguous:
            raise LayoutError(f"a page of a {self.name} buffer is not contiguous: no page object")
        names = [entry.name for entry in fields(self)]
        return {name: getattr(self, name) for name in names if name not in _NOT_IN_AN_OBJECT}


def _require_positive(spec: LayoutSpec, names: list[str]) -> None:
    for name in names:
        value = getattr(spec, name)
        if not isinstance(value, int) or isinstance(value, bool):
            raise LayoutError(f"{name}={value!r} must be an int")
        if value < 1:
            raise LayoutError(f"{name}={value} must be at least 1")


_NOT_IN_AN_OBJECT = ("name", "num_pages", "stride_page")


@dataclass(frozen=True, eq=False)
class PagedBuffer:
    """An array and how pages lie in it. The array is kept alive, never copied and never resized.

    `array`: torch tensor, CuPy or NumPy array, or an object with __cuda_array_interface__,
    __array_interface__, __dlpack__ or the buffer protocol; any dtype and shape, but contiguous,
    writable and exactly spec.num_bytes long (LayoutError otherwise).
    """

    array: object
    spec: LayoutSpec
    hazards: Hazards | None = field(default=None, repr=False, kw_only=True)  # of a pool's pages
    address: int = field(init=False)  # of byte 0
    device: str = field(init=False)  # "cpu" or "cuda:N"
    native: _C.Buffer = field(init=False, repr=False)

    def __post_init__(self) -> None:
        view = arrays.view(self.array)
        if not view.is_contiguous:
            raise LayoutError(f"the array of a {self.spec.name} buffer is not contiguous")
        if not view.is_writable:
            raise LayoutError(f"the array of a {self.spec.name} buffer is read-only")
        if view.num_bytes != self.spec.num_bytes:
            raise LayoutError(
                f"the array has {view.num_bytes} bytes, the {self.spec.name} layout of "
                f"{self.spec.num_pages} pages has {self.spec.num_bytes}"
            )
        object.__setattr__(self, "address", view.address)
        object.__setattr__(self, "device", view.device)
        native = _C.Buffer.of_range(view.address, view.num_bytes)
        object.__setattr__(self, "native", native)

    def overlaps(self, other: PagedBuffer) -> bool:
        """Whether the two share a byte."""
        return self.native.overlaps(other.native)
