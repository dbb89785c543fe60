"""What a page looks like: extents and byte strides of a pool's buffer, as data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from enum import Enum
from functools import cached_property
from typing import Any

from hicache_ext.checks import MAX_BYTES
from hicache_ext.errors import LayoutError

AXES = ("page", "layer", "kv", "group", "token", "head")

# Axes of the buffer outermost first; the bytes of one head are innermost.
_ORDERS = {
    "layer_first": "kv,layer,page,token,group,head",
    "page_first": "kv,page,token,layer,group,head",
    "page_first_direct": "kv,page,layer,token,group,head",
    "page_head": "kv,page,group,head,token,layer",
    "page_unified": "page,group,layer,kv,token,head",
}
LAYOUT_NAMES = tuple(_ORDERS)


class KvMask(Enum):
    """Which of K and V a copy moves. A latent cache (num_kv=1) has only BOTH."""

    K = (0, 1)
    V = (1, 2)
    BOTH = (0, 2)


class Planes(Enum):
    """Where layers, K and V lie: in one buffer, or each [layer, kv] at an address of its own."""

    ONE_BUFFER = "one buffer"
    TABLE = "table"


@dataclass(frozen=True)
class LayoutSpec:
    """A pool's buffer: byte (page, layer, kv, group, token, head) starts at
    page*stride_page + layer*stride_layer + ... + head*stride_head; `head` counts in its group.

    Head groups are the shards that another tensor-parallel degree would fetch: in page_unified the
    bytes of one group are contiguous. With Planes.TABLE every [layer, kv] has an address of its
    own, stride_layer and stride_kv are 0, and the rest counts from there. Strides are in bytes and
    must not make two elements overlap (LayoutError), nor may an extent be smaller than 1 or
    num_groups not divide num_heads.
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
    planes: Planes = Planes.ONE_BUFFER

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
        """A dense layout by name, or by its axes outermost first: a permutation of
        "page,layer,kv,group,token,head", with K and V fused as in "layer,page,token,group,head,kv".

        "layer_first"        [kv, layer, page, token, head, byte]
        "page_first"         [kv, page, token, layer, head, byte]
        "page_first_direct"  [kv, page, layer, token, head, byte]
        "page_head"          [kv, page, head, token, layer, byte]
        "page_unified"       [page, group, layer, kv, token, head, byte]: one object per page
        """
        order = _ORDERS.get(name, name).split(",")
        if sorted(order) != sorted(AXES):
            raise LayoutError(
                f"layout {name!r} is none of {', '.join(LAYOUT_NAMES)}, nor the axes "
                f"{','.join(AXES)} in some order"
            )
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
        strides: dict[str, Any] = {}
        step = head_bytes
        for axis in reversed(order):
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

    @classmethod
    def opaque(
        cls,
        *,
        num_pages: int,
        row_bytes: int,
        num_layers: int = 1,
        page_size: int = 1,
        name: str = "layer_first",
    ) -> LayoutSpec:
        """Rows that nobody looks into: a state per page, or with page_size a row per token, in
        each layer; of any width, as 132 (an indexer), 576 or 656 (fp8 latents) or 37 440 bytes."""
        return cls.make(
            name,
            num_pages=num_pages,
            page_size=page_size,
            num_layers=num_layers,
            num_heads=1,
            head_bytes=row_bytes,
            num_kv=1,
        )

    def packed(self, num_pages: int, num_groups: int = 1) -> LayoutSpec:
        """Pages of these extents as objects without gaps, one after the other: page_unified."""
        return LayoutSpec.make(
            "page_unified",
            num_pages=num_pages,
            page_size=self.page_size,
            num_layers=self.num_layers,
            num_kv=self.num_kv,
            num_heads=self.num_heads,
            head_bytes=self.head_bytes,
            num_groups=num_groups,
        )

    @classmethod
    def strided(
        cls,
        axes: Mapping[str, tuple[int, int]],
        *,
        head_bytes: int,
        name: str = "strided",
        planes: Planes = Planes.ONE_BUFFER,
    ) -> LayoutSpec:
        """From the extent and the byte stride of each axis; an axis left out has extent 1.

        LayoutSpec.strided({"page": (100, 4096), "token": (16, 256)}, head_bytes=200)
        """
        if unknown := sorted(set(axes) - set(AXES)):
            raise LayoutError(f"axis {unknown[0]!r} is none of {', '.join(AXES)}")
        extents = {axis: axes[axis][0] if axis in axes else 1 for axis in AXES}
        # The stride of an axis of one step is never used: one value, so that equal specs are equal.
        strides: dict[str, Any] = {
            f"stride_{axis}": axes[axis][1] if extents[axis] != 1 else head_bytes for axis in AXES
        }
        if planes is Planes.TABLE:
            strides.update(stride_layer=0, stride_kv=0)
        return cls(
            name=name,
            num_pages=extents["page"],
            page_size=extents["token"],
            num_layers=extents["layer"],
            num_kv=extents["kv"],
            num_heads=extents["group"] * extents["head"],
            head_bytes=head_bytes,
            num_groups=extents["group"],
            planes=planes,
            **strides,
        )

    def __post_init__(self) -> None:
        names = [entry.name for entry in fields(self)[1:-1]]
        strides = [name for name in names if name.startswith("stride_")]
        _require_positive(self, [name for name in names if name not in strides])
        if self.num_kv > 2:
            raise LayoutError(f"num_kv={self.num_kv} must be 1 (one latent) or 2 (K and V)")
        if self.num_heads % self.num_groups:
            raise LayoutError(
                f"num_heads={self.num_heads} is no multiple of num_groups={self.num_groups}"
            )
        if self.planes is Planes.TABLE:
            strides = [name for name in strides if name not in ("stride_layer", "stride_kv")]
        _require_positive(self, strides)
        if self.num_bytes >= MAX_BYTES:
            raise LayoutError(f"num_bytes={self.num_bytes} does not fit into 62 bits")
        self._require_disjoint()

    def __hash__(self) -> int:
        return self._hash

    @cached_property
    def _hash(self) -> int:  # plans are looked up by two specs at every copy
        return hash(tuple(getattr(self, entry.name) for entry in fields(self)))

    def _axes(self) -> list[tuple[int, int, str]]:
        """(stride, extent, name) of every axis inside a plane."""
        axes = [
            (self.stride_page, self.num_pages, "page"),
            (self.stride_group, self.num_groups, "group"),
            (self.stride_token, self.page_size, "token"),
            (self.stride_head, self.num_heads // self.num_groups, "head"),
        ]
        if self.planes is Planes.ONE_BUFFER:
            axes.append((self.stride_layer, self.num_layers, "layer"))
            axes.append((self.stride_kv, self.num_kv, "kv"))
        return axes

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
    def num_planes(self) -> int:
        """Ranges of memory that the pages lie in."""
        return self.num_layers * self.num_kv if self.planes is Planes.TABLE else 1

    @cached_property
    def plane_bytes(self) -> int:
        """Extent of one range, gaps included."""
        return self.head_bytes + sum((extent - 1) * stride for stride, extent, _ in self._axes())

    @property
    def num_bytes(self) -> int:
        """Extent of the whole buffer, gaps included."""
        return self.num_planes * self.plane_bytes

    @property
    def is_page_contiguous(self) -> bool:
        """Whether each page is page_bytes consecutive bytes."""
        spread = self.plane_bytes - (self.num_pages - 1) * self.stride_page
        return self.num_planes == 1 and spread == self.page_bytes

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


_NOT_IN_AN_OBJECT = ("name", "num_pages", "stride_page", "planes")
