"""SegmentStore against fio, one file per page, LMDB, and its own engine without checksums.

Pages of 256 KiB and 1 MiB in chains of 128 MiB, read chain by chain in random order, each chain by
one call. Cold: O_DIRECT, or dropped from the page cache. Durable writes go into a store that is
full, so that as many pages are deleted: an fsync for each file, Durability.BATCH of a chain for the
store. The files that are written durably are fewer, since that is slow; all figures are rates.
"""

import os
import random
import resource
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from benchmarks.harness import Bound, Row, Table, interleaved, parse_args
from benchmarks.store_engine import SHAPES, Slots
from benchmarks.store_yardsticks import LmdbPages, PageFiles
from hicache_ext import _C
from hicache_ext.storage import Durability, SegmentStore, StoreNamespace

CHAIN_BYTES = 128 << 20
NUM_MANY = {False: 1_000_000, True: 2_000}  # pages of 4 KiB, for the index
NAMESPACES = {"full": StoreNamespace("m", "r", "float32", {"num_layers": 1}, 16, "0/1")}


class Costs:
    """A measure for `interleaved` in seconds per GB, which keeps the CPU seconds per GB as well."""

    def __init__(self) -> None:
        self.cpu: dict[str, list[float]] = {}

    def of(self, name: str, fn: Callable[[], int]) -> Callable[[], float]:
        """`fn` returns how many bytes it moved."""

        def measure() -> float:
            start, cpu = time.perf_counter(), cpu_s()
            num_bytes = fn()
            self.cpu.setdefault(name, []).append((cpu_s() - cpu) / num_bytes * 1e9)
            return (time.perf_counter() - start) / num_bytes * 1e9

        return measure

    def cpu_per_gb(self, name: str) -> float:
        return float(np.median(self.cpu[name]))


class Segments:
    """A full store with a quota of `num_pages`, and the memory of a chain."""

    def __init__(self, folder: Path, page_bytes: int, num_pages: int) -> None:
        self.page_bytes, self.num_pages = page_bytes, num_pages
        self.chain = min(num_pages, CHAIN_BYTES // page_bytes)
        self.slots = Slots(folder, page_bytes, num_pages, batch=self.chain)
        self.pages = [memoryview(row) for row in self.slots.array]
        self.store = SegmentStore(
            folder / "store",
            NAMESPACES,
            {"full": page_bytes},
            durability=Durability.BATCH,
            max_bytes=num_pages * page_bytes,
            engine=self.slots.engines["io_uring"],
        )
        self._rng = random.Random(page_bytes)
        self.chains: list[list[bytes]] = []
        self.write()

    def write(self) -> int:
        """New pages for all that there is: each evicts another."""
        num_chains = self.num_pages // self.chain
        self.chains = [
            [self._rng.randbytes(32) for _ in range(self.chain)] for _ in range(num_chains)
        ]
        for keys in self.chains:
            assert all(self.store.write_from("full", keys, self.pages))
        return num_chains * self.chain * self.page_bytes

    def read(self) -> int:
        for keys in self._rng.sample(self.chains, len(self.chains)):
            assert all(self.store.read_into("full", keys, self.pages))
        return len(self.chains) * self.chain * self.page_bytes

    def read_unchecked(self) -> int:
        """The same calls by the engine alone."""
        chains = range(self.num_pages // self.chain)
        for first in self._rng.sample(chains, len(chains)):
            row = range(first * self.chain, (first + 1) * self.chain)
            self.slots.run("io_uring", _C.IoOp.READ, row)
        return len(chains) * self.chain * self.page_bytes

    def close(self) -> None:
        self.store.close()
        self.slots.close()


def cpu_s() -> float:
    """Of this process, its threads and what the kernel does for them; not of the kernel's own."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def fio_measure(slots: Slots, op: _C.IoOp) -> Callable[[], float]:
    """Seconds per GB."""
    num_bytes = slots.num_pages * slots.page_bytes
    return lambda: slots.fio(op, is_random=True) / num_bytes * 1e9


def add_page_rows(table: Table, folder: Path, page_bytes: int, num_pages: int, rounds: int) -> None:
    """Every target that is about moving pages of one size."""
    segments = Segments(folder, page_bytes, num_pages)
    files = PageFiles(folder / "files", segments.pages, num_pages)
    lmdb = LmdbPages(folder / "lmdb", segments.pages, num_pages)
    few = max(1, num_pages // 16)
    costs = Costs()
    reads = {
        "store": costs.of("store read", segments.read),
        "unchecked": costs.of("unchecked", segments.read_unchecked),
        "fio": fio_measure(segments.slots, _C.IoOp.READ),
        "files": files.cold(costs.of("files read", files.read)),
        "lmdb": lmdb.cold(costs.of("lmdb read", lmdb.read)),
    }
    read = {name: s.median for name, s in interleaved(reads, num_rounds=rounds).items()}
    writes = {
        "store": costs.of("store write", segments.write),
        "fio": fio_measure(segments.slots, _C.IoOp.WRITE),
        "files": costs.of("files write", lambda: files.replace(few)),
    }
    write = {name: s.median for name, s in interleaved(writes, num_rounds=rounds).items()}

    def rate(what: str, taken: dict[str, float], against: str, target: float) -> None:
        figures = 1e3 / taken["store"], 1e3 / taken[against]
        table.add(Row(f"{page_bytes >> 10} KiB {what}", *figures, unit="MB/s", target=target))

    def cpu(what: str, ours: str, theirs: str) -> None:
        figures = 1e3 * costs.cpu_per_gb(ours), 1e3 * costs.cpu_per_gb(theirs)
        at_most = {"unit": "ms/GB", "target": 0.1, "bound": Bound.AT_MOST}
        table.add(Row(f"{page_bytes >> 10} KiB {what}", *figures, **at_most))

    rate("cold read vs fio", read, "fio", 0.9)
    rate("durable write vs fio", write, "fio", 0.9)
    rate("cold read vs one file per page", read, "files", 5.0)
    rate("durable write vs one file per page", write, "files", 5.0)
    cpu("CPU of cold reads vs one file per page", "store read", "files read")
    cpu("CPU of durable writes vs one file per page", "store write", "files write")
    rate("cold read vs LMDB", read, "lmdb", 2.0)
    rate("read vs the same calls without checksums", read, "unchecked", 0.9)
    lmdb.close()
    segments.close()


def add_index_rows(table: Table, folder: Path, num_pages: int) -> None:
    """Memory for each page, and the time to open a store of very many."""
    sizes, rng = {"full": os.sysconf("SC_PAGE_SIZE")}, random.Random(3)
    batch = min(num_pages, 10_000)
    memory = np.zeros((batch, sizes["full"]), np.uint8)
    pages = [memoryview(row) for row in memory]
    store = SegmentStore(folder / "many", NAMESPACES, sizes)
    for _ in range(num_pages // batch):
        keys = [rng.randbytes(32) for _ in pages]
        assert all(store.write_from("full", keys, pages))
    bytes_per_page = store.stats()["table_bytes"] / num_pages
    store.close()
    start = time.perf_counter()
    store = SegmentStore(folder / "many", NAMESPACES, sizes)
    open_s = time.perf_counter() - start
    assert all(store.exists("full", keys))
    store.close()
    at_most = {"target": 1.0, "bound": Bound.AT_MOST}
    table.add(Row("index in memory, of a page", bytes_per_page, 96, unit="bytes", **at_most))
    name = f"open a store of {num_pages} pages"
    table.add(Row(name, open_s, 1.0, unit="s", note="yardstick: 1 s", **at_most))


def add_rows(table: Table, quick: bool) -> None:
    """Each page size in a folder of its own, which is gone before the next."""
    for page_bytes, num_pages in SHAPES[quick].items():
        with tempfile.TemporaryDirectory(prefix="hicache-bench-", dir=".") as folder:
            add_page_rows(table, Path(folder).resolve(), page_bytes, num_pages, 1 if quick else 5)
    with tempfile.TemporaryDirectory(prefix="hicache-bench-", dir=".") as folder:
        add_index_rows(table, Path(folder).resolve(), NUM_MANY[quick])


def main(quick: bool) -> Table:
    table = Table("SegmentStore, O_DIRECT where the file system has it")
    add_rows(table, quick)
    return table


if __name__ == "__main__":
    args = parse_args(__doc__)
    sys.exit(main(args.quick).finish(args.out, "store_segment"))
