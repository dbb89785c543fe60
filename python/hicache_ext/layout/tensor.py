"""LayoutSpecs from the shapes and strides of tensors."""

from __future__ import annotations

from itertools import pairwise

from hicache_ext.arrays import ArrayView
from hicache_ext.errors import LayoutError

from .spec import AXES, LayoutSpec, Planes

_NAMES = (*AXES, "slot", "dim")


def spec_of_tensor(view: ArrayView, axes: str, page_size: int | None) -> LayoutSpec:
    """How pages lie in one tensor; `axes` as in PagedBuffer.from_tensor."""
    found, head_bytes = _axes_of(view, axes, page_size)
    return LayoutSpec.strided(found, head_bytes=head_bytes, name=axes)


def spec_of_table(
    views: list[ArrayView], num_layers: int, axes: str, page_size: int | None
) -> tuple[LayoutSpec, list[int]]:
    """Of tensors [K of each layer, V of each layer], or of both or one latent: what a plane looks
    like, and the addresses [layer, kv]."""
    if not views:
        raise LayoutError("a table of no tensors")
    _require_alike(views)
    found, head_bytes = _axes_of(views[0], axes, page_size)
    if "layer" in found:
        raise LayoutError(f"axes {axes!r}: the tensors of a table are its layers")
    whole = LayoutSpec.strided(found, head_bytes=head_bytes, name=axes)  # of one tensor
    _require_apart(views, whole.num_bytes)
    num_kv, kv_step = found.pop("kv", (len(views) // num_layers, 0))
    if kv_step and len(views) > num_layers:
        raise LayoutError(f"axes {axes!r}: K and V in each tensor, and V tensors as well")
    tensors = [range(layer, len(views), num_layers) for layer in range(num_layers)]
    planes = [
        views[i].address + kv * kv_step
        for of_layer in tensors
        for i in of_layer
        for kv in range(num_kv if kv_step else 1)
    ]
    sizes = {"layer": (num_layers, 0), "kv": (num_kv, 0)}
    spec = LayoutSpec.strided(
        {**found, **sizes}, head_bytes=head_bytes, name=axes, planes=Planes.TABLE
    )
    return spec, planes


def _axes_of(
    view: ArrayView, axes: str, page_size: int | None
) -> tuple[dict[str, tuple[int, int]], int]:
    """(extent, stride) of each axis that `axes` names, and the bytes of a head."""
    names = [name.strip() for name in axes.split(",")]
    if len(names) != len(view.shape):
        raise LayoutError(f"axes {axes!r} are {len(names)}, the shape is {list(view.shape)}")
    head_bytes = view.itemsize
    found: dict[str, tuple[int, int]] = {}
    _require_once(names, axes)
    for i in reversed(range(len(names))):
        name, extent, stride = names[i], view.shape[i], view.strides[i]
        if name not in _NAMES:
            raise LayoutError(f"axis {name!r} is none of {', '.join(_NAMES)}")
        if extent < 1:
            raise LayoutError(f"axis {name} has size {extent} in shape {list(view.shape)}")
        if name == "dim":
            if found or (extent > 1 and stride != head_bytes):
                raise LayoutError(
                    f"axis dim: {extent} steps of {stride} B after {head_bytes} B; the bytes of a "
                    f"head must lie together and be the last axes (axes {axes!r})"
                )
            head_bytes *= extent
        else:
            found[name] = (extent, stride)
    if "slot" in found:
        found |= _pages_of_slots(*found.pop("slot"), page_size)
    elif page_size is not None and page_size != found.get("token", (1, 0))[0]:
        raise LayoutError(f"page_size={page_size} of tokens {found.get('token', (1, 0))[0]}")
    return found, head_bytes


def _require_once(names: list[str], axes: str) -> None:
    """Each axis but "dim"; a slot is a page and a token."""
    flat = [part for name in names for part in (("page", "token") if name == "slot" else (name,))]
    for name in sorted(set(flat) - {"dim"}):
        if flat.count(name) > 1:
            raise LayoutError(f"axis {name} is {flat.count(name)} dimensions of {axes!r}")


def _pages_of_slots(
    num_slots: int, stride: int, page_size: int | None
) -> dict[str, tuple[int, int]]:
    if page_size is None or page_size < 1 or num_slots % page_size:
        raise LayoutError(f"page_size={page_size} does not divide the {num_slots} slots")
    return {"page": (num_slots // page_size, page_size * stride), "token": (page_size, stride)}


def _require_alike(views: list[ArrayView]) -> None:
    first = views[0]
    for i, view in enumerate(views):
        for what in ("itemsize", "shape", "strides", "device"):
            mine, wanted = getattr(view, what), getattr(first, what)
            if mine != wanted:
                raise LayoutError(
                    f"tensors of a table differ: {what} {mine} of number {i}, {wanted} of number 0"
                )


def _require_apart(views: list[ArrayView], num_bytes: int) -> None:
    order = sorted(range(len(views)), key=lambda i: views[i].address)
    for a, b in pairwise(order):
        if views[a].address + num_bytes > views[b].address:
            raise LayoutError(
                f"tensors {a} and {b} of a table overlap: {views[a].address:#x}+{num_bytes} and "
                f"{views[b].address:#x}; layers of one tensor are a layout of that tensor"
            )
