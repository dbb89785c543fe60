"""The pool of tier L1: one torch tensor, on a GPU or, without one, in ordinary memory."""

from __future__ import annotations

import torch

from .errors import CapacityError, CudaError, LayoutError
from .host_limits import check_host_memory
from .layout import LayoutSpec, PagedBuffer
from .page_pool import PagePool
from .tier import Tier


class DevicePool(PagePool):
    """Tier L1: a zero-filled torch.uint8 tensor on a CUDA device, or on the CPU without one.

    Views of the tensor share its memory the way torch does it: they stay valid after close(), and
    the memory goes when the last of them goes.
    """

    def __init__(self, spec: LayoutSpec, *, name: str, device: str = "cpu") -> None:
        """Device "cpu" or "cuda:N". CapacityError if the memory is not there, CudaError if the
        device is not, LayoutError if it is no such device."""
        tensor = _allocate(spec.num_bytes, f"pool {name!r} on {device!r}", device)
        super().__init__(spec, name=name, tier=Tier.DEVICE)
        self._buffer = PagedBuffer(tensor, spec, hazards=self.hazards)

    def tensor(self, dtype: torch.dtype = torch.uint8) -> torch.Tensor:
        """The whole pool as a flat tensor of `dtype`; a view. LayoutError if it does not divide."""
        flat = self._flat()
        if self.spec.num_bytes % dtype.itemsize:
            raise LayoutError(
                f"pool {self.name!r}: {self.spec.num_bytes} bytes are no multiple of {dtype}"
            )
        return flat.view(dtype)

    def kv_view(self, dtype: torch.dtype) -> torch.Tensor:
        """[num_kv, num_layers, num_pages, page_size, num_heads, head_bytes/itemsize]; a view.

        Contiguous for layer_first. LayoutError if `dtype` does not divide a head or a stride, or
        the heads of a token are not evenly spaced (several groups in page_unified).
        """
        s, itemsize = self.spec, dtype.itemsize
        heads_per_group = s.num_heads // s.num_groups
        if s.num_groups > 1 and s.stride_group != heads_per_group * s.stride_head:
            raise LayoutError(
                f"pool {self.name!r}: {s.num_groups} head groups of {s.name} are {s.stride_group} "
                f"bytes apart: no tensor of {s.num_heads} heads"
            )
        strides = (s.stride_kv, s.stride_layer, s.stride_page, s.stride_token, s.stride_head)
        if any(size % itemsize for size in (s.head_bytes, *strides)):
            raise LayoutError(
                f"pool {self.name!r}: head_bytes={s.head_bytes} or a stride of {strides} "
                f"is no multiple of {dtype}"
            )
        shape = (s.num_kv, s.num_layers, s.num_pages, s.page_size, s.num_heads)
        return self.tensor(dtype).as_strided(
            (*shape, s.head_bytes // itemsize), (*(size // itemsize for size in strides), 1)
        )

    def _flat(self) -> torch.Tensor:
        tensor = self.buffer.array
        assert isinstance(tensor, torch.Tensor)
        return tensor

    def _close(self) -> None:
        self._buffer = None

    def _memory_view(self) -> memoryview:
        if self.buffer.device != "cpu":
            raise LayoutError(
                f"pool {self.name!r}: memory on {self.buffer.device} has no host view"
            )
        return self._flat().numpy().data

    def _strided_pages(self) -> torch.Tensor:
        return self._flat().as_strided(*self._axes())


def _allocate(num_bytes: int, what: str, device: str) -> torch.Tensor:
    try:
        where = torch.device(device)
    except RuntimeError as error:
        raise LayoutError(f"{what}: no such device: {error}") from None
    if where.type not in ("cpu", "cuda"):
        raise LayoutError(f"{what}: the device must be cpu or cuda:N")
    if where.type == "cuda" and (where.index or 0) >= torch.cuda.device_count():
        raise CudaError(f"{what}: {torch.cuda.device_count()} CUDA devices are present")
    if where.type == "cpu":
        check_host_memory(num_bytes, what)
    try:
        return torch.zeros(num_bytes, dtype=torch.uint8, device=where)
    except RuntimeError as error:  # torch.OutOfMemoryError is one
        raise CapacityError(f"{what}: {num_bytes} bytes: {error}") from error
