"""Pages of one size, and the calls that the benchmarks of remote stores time."""

import mmap
import random

from hicache_ext.storage import PageStore, StoreNamespace

# Whether it is the short form -> {page bytes: number of pages}
SHAPES = {False: {256 << 10: 4000, 1 << 20: 1000}, True: {64 << 10: 16}}


class Pages:
    """`num_pages` random pages in one huge-page mapping, and as much room to read them into."""

    def __init__(self, page_bytes: int, num_pages: int) -> None:
        rng = random.Random(page_bytes)
        self.page_bytes, self.num_bytes = page_bytes, page_bytes * num_pages
        self.keys = [rng.randbytes(32) for _ in range(num_pages)]
        self.sources, self._source = self._mapping()
        self.targets, self._target = self._mapping()
        for page in self.sources:
            page[:] = rng.randbytes(page_bytes)
        self.sizes = {"full": page_bytes}
        layout = {"num_layers": 1}
        self.namespaces = {"full": StoreNamespace("m", "r", "float32", layout, 16, "0/1")}

    def write(self, store: PageStore) -> None:
        assert all(store.write_from("full", self.keys, self.sources))

    def read(self, store: PageStore) -> None:
        assert all(store.read_into("full", self.keys, self.targets))

    def exists(self, store: PageStore) -> None:
        assert all(store.exists("full", self.keys))

    def check(self) -> None:
        """What was read last is what was written."""
        assert self._source[:] == self._target[:]

    def _mapping(self) -> tuple[list[memoryview], mmap.mmap]:
        memory = mmap.mmap(-1, self.num_bytes)
        memory.madvise(mmap.MADV_HUGEPAGE)
        view = memoryview(memory)
        starts = range(0, self.num_bytes, self.page_bytes)
        return [view[start : start + self.page_bytes] for start in starts], memory
