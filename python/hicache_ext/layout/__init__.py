"""What a page looks like, and the memory that pages lie in."""

from .buffer import PagedBuffer
from .spec import LAYOUT_NAMES, KvMask, LayoutSpec, Planes

__all__ = ["LAYOUT_NAMES", "KvMask", "LayoutSpec", "PagedBuffer", "Planes"]
