"""A write to an ObjectStore: its pages in objects, some of which come to be known together."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from ..keys import page_checksum
from .object_index import Entry, Place, new_batch


@dataclass
class Batch:
    """Some data objects and the index object that is put when they are there."""

    name: str
    num_left: int  # data objects that are not done yet
    written: list[Entry] = field(default_factory=list)

    @property
    def index_name(self) -> str:
        return f"{self.name}.pages"


class Packed(NamedTuple):
    """A data object."""

    batch: Batch
    entries: list[Entry]
    data: bytearray


class Buffers:
    """Memory of one write for its data objects, used again: new memory is zeroed page by page."""

    def __init__(self) -> None:
        self._free: list[bytearray] = []

    def join(self, pages: Sequence[memoryview]) -> bytearray:
        """The bytes of the pages one after the other; the caller's until give_back()."""
        num_bytes, end = sum(page.nbytes for page in pages), 0
        data = self._free.pop() if self._free else bytearray(num_bytes)
        if len(data) != num_bytes:  # the last one is shorter
            data = bytearray(num_bytes)
        with memoryview(data) as view:
            for page in pages:
                start, end = end, end + page.nbytes
                view[start:end] = page
        return data

    def give_back(self, data: bytearray) -> None:
        """Nobody reads it any more."""
        self._free.append(data)


def pack(
    items: Sequence[tuple[bytes, memoryview]],
    num_in_object: int,
    num_in_batch: int,
    buffers: Buffers,
) -> Iterator[Packed]:
    """`items` are keys and pages. A batch has at most so many objects, an object so many pages."""
    for first in range(0, len(items), num_in_object * num_in_batch):
        some = items[first : first + num_in_object * num_in_batch]
        starts = range(0, len(some), num_in_object)
        batch = Batch(new_batch(), len(starts))
        for chunk, start in enumerate(starts):
            pages = some[start : start + num_in_object]
            entries = [
                Entry(key, page_checksum(key, page), Place(batch.name, chunk, slot))
                for slot, (key, page) in enumerate(pages)
            ]
            yield Packed(batch, entries, buffers.join([page for _, page in pages]))
