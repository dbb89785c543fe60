"""The memory that pages lie in."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from hicache_ext import _C, arrays
from hicache_ext.errors import LayoutError, LifetimeError

from .spec import LayoutSpec, Planes
from .tensor import spec_of_table, spec_of_tensor

if TYPE_CHECKING:
    from hicache_ext.hazards import Hazards


class PagedBuffer:
    """An array and how pages lie in it. The array is kept alive, never copied and never resized.

    `array`: torch tensor, CuPy or NumPy array, or an object with __cuda_array_interface__,
    __array_interface__, __dlpack__ or the buffer protocol; any dtype and shape, but contiguous and
    exactly spec.num_bytes long (LayoutError otherwise). Arrays that say by themselves how pages lie
    in them: from_tensor(), from_tables(). What is read-only can be copied from, not to.
    """

    __slots__ = (
        "__weakref__",
        "address",
        "array",
        "device",
        "hazards",
        "is_writable",
        "native",
        "owner",
        "spec",
    )

    array: object
    spec: LayoutSpec
    hazards: Hazards | None  # of a pool's pages
    address: int  # of byte 0; of plane 0 in a table
    device: str  # "cpu" or "cuda:N"
    is_writable: bool
    owner: object  # ArrayView.owner: kept alive as the array is
    native: _C.Buffer

    def __init__(self, array: object, spec: LayoutSpec, *, hazards: Hazards | None = None) -> None:
        view = arrays.view(array)
        if spec.planes is Planes.TABLE:
            raise LayoutError(f"a {spec.name} table of one array: see PagedBuffer.from_tables")
        if not view.is_contiguous:
            raise LayoutError(f"the array of a {spec.name} buffer is not contiguous")
        if view.num_bytes != spec.num_bytes:
            raise LayoutError(
                f"the array has {view.num_bytes} bytes, the {spec.name} layout of "
                f"{spec.num_pages} pages has {spec.num_bytes}"
            )
        self._fill(array, spec, [view])
        self.hazards = hazards

    def _fill(
        self,
        array: object,
        spec: LayoutSpec,
        views: Sequence[arrays.ArrayView],
        planes: Sequence[int] = (),
    ) -> None:
        view = views[0]
        self.array = array
        self.spec = spec
        self.hazards = None
        self.address = planes[0] if planes else view.address
        self.device = view.device
        self.is_writable = all(view.is_writable for view in views)
        self.owner = [view.owner for view in views]
        if planes:
            self.native = _C.Buffer.of_planes(planes, spec.plane_bytes)
        else:
            self.native = _C.Buffer.of_range(view.address, spec.num_bytes)

    @classmethod
    def from_tensor(cls, tensor: object, axes: str, *, page_size: int | None = None) -> PagedBuffer:
        """A tensor or array whose shape and strides say how pages lie in it; it may have gaps.

        axes: what each dimension is, outermost first: "layer", "kv", "page", "token", "group",
        "head", and last "dim", the elements of a head (several, if they lie together); or "slot",
        which is page and token in one: page_size slots are a page. Dimensions may be left out.

            PagedBuffer.from_tensor(kv, "kv,layer,slot,head,dim", page_size=16)
            PagedBuffer.from_tensor(k_cache, "page,group,head,token,dim")  # dim cut in pieces

        LayoutError: an axis unknown or named twice, of size zero, with a stride that is negative,
        or that makes two elements share a byte; elements of a head that do not lie together.
        """
        view = arrays.view(tensor)
        spec = spec_of_tensor(view, axes, page_size)
        buffer = cls.__new__(cls)
        buffer._fill(tensor, spec, [view])
        return buffer

    @classmethod
    def from_tables(
        cls,
        k_tensors: Sequence[object],
        v_tensors: Sequence[object] | None = None,
        *,
        axes: str,
        page_size: int | None = None,
    ) -> PagedBuffer:
        """One tensor per layer, or one for K and one for V; all of one shape and strides.

        axes: as in from_tensor, without "layer", and with "kv" only where one tensor holds both.
        Without v_tensors and "kv" the layers hold one latent. Each [layer, kv] keeps its address:
        nothing is copied. LayoutError also where tensors differ, lie on several devices, or share
        bytes.
        """
        tensors = [*k_tensors, *(v_tensors or ())]
        views = [arrays.view(tensor) for tensor in tensors]
        num_layers = len(k_tensors)
        if v_tensors is not None and len(v_tensors) != num_layers:
            raise LayoutError(f"{num_layers} K tensors and {len(v_tensors)} V tensors")
        spec, planes = spec_of_table(views, num_layers, axes, page_size)
        buffer = cls.__new__(cls)
        buffer._fill(tuple(tensors), spec, views, planes)
        return buffer

    def overlaps(self, other: PagedBuffer) -> bool:
        """Whether a range of one shares a byte with a range of the other."""
        return self.native.overlaps(other.native)

    def require_alive(self, side: str) -> None:
        """LifetimeError if the tensor has other memory now than when the buffer was made.

        A reference keeps a tensor, but not its bytes: storage().resize_(0) and set_() take them
        away. Of a table the first tensor is asked; a pool's layers are freed together.
        """
        tensor = arrays.torch_tensor(self.array[0] if type(self.array) is tuple else self.array)
        if tensor is not None and tensor.data_ptr() != self.address:
            raise LifetimeError(
                f"{side}: the tensor of a {self.spec.name} buffer had its memory at "
                f"{self.address:#x}, now it is at {tensor.data_ptr():#x}"
            )
