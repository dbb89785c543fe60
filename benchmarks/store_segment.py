"""SegmentStore against fio, one file per page, LMDB, and its own engine without checksums.

Pages of 256 KiB and 1 MiB in chains of 128 MiB, read chain by chain in random order, each chain by
one call. Cold: O_DIRECT, or dropped from the page cache; how many of its bytes a yardstick then had
from the disk stands in its row. Writes go into a store that is full, so that as many pages are
deleted. Durable ones: an fsync for each file and one for their folder, Durability.BATCH of a chain
for the store. fio syncs once at the end, and in a row of its own after each chain. The files that
are written durably are fewer, since that is slow; all figures are rates.

The ratio of fio at its best depth to files read one after the other is what this disk leaves for
any store to win over them: it has a row of its own.
"""

import os
import random
import resource
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from benchmarks.harness import Bound, Row, Table, interleaved, parse_args
from benchmarks.store_engine import SHAPES, Slots
from benchmarks.store_yardsticks import LmdbPages, PageFiles
from hicache_ext import _C
from hicache_ext.storage import Durability, SegmentStore, StoreNamespace

CHAIN_BYTES = 128 << 20
DEEP_BYTES = 64 << 20  # in flight: more than any disk here needs
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
        self._folder = folder / "store"
        self._rng = random.Random(page_bytes)
        self.chains: list[list[bytes]] = []
        self.store = self._open(Durability.BATCH)
        self.write()

    def _open(self, durability: Durability) -> SegmentStore:
        return SegmentStore(
            self._folder,
            NAMESPACES,
            {"full": self.page_bytes},
            durability=durability,
            max_bytes=self.num_pages * self.page_bytes,
            engine=self.slots.engines["io_uring"],
        )

    def write_loose(self) -> int:
        """Likewise, durable when the kernel gets round to it. The store is opened for it."""
        self.store.close()
        self.store = self._open(Durability.NONE)
        num_bytes = self.write()
        self.store.close()
        self.store = self._open(Durability.BATCH)
        return num_bytes

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


def fio_measure(slots: Slots, op: _C.IoOp, **how: int) -> Callable[[], float]:
    """Seconds per GB."""
    num_bytes = slots.num_pages * slots.page_bytes
    return lambda: slots.fio(op, is_random=True, **how) / num_bytes * 1e9


class PageRows:
    """Every target that is about moving pages of one size."""

    def __init__(self, table: Table, folder: Path, page_bytes: int, num_pages: int) -> None:
        self.table, self.size = table, f"{page_bytes >> 10} KiB"
        self.segments = Segments(folder, page_bytes, num_pages)
        self.files = PageFiles(folder / "files", self.segments.pages, num_pages)
        self.lmdb = LmdbPages(folder / "lmdb", self.segments.pages, num_pages)
        self.num_durable_files = max(1, num_pages // 16)
        self.costs = Costs()
        self.notes: dict[str, str] = {}

    def add(self, num_rounds: int) -> None:
        self._add_reads(num_rounds)
        self._add_writes(num_rounds)
        self.lmdb.close()
        self.segments.close()

    def _add_reads(self, num_rounds: int) -> None:
        segments, files, costs = self.segments, self.files, self.costs
        cold = {
            "files": files.cold(costs.of("files read", files.read)),
            "in place": files.cold(costs.of("in place", files.read_in_place)),
            "lmdb": self.lmdb.cold(costs.of("lmdb read", self.lmdb.read)),
        }
        measures = {
            "store": costs.of("store read", segments.read),
            "unchecked": costs.of("unchecked", segments.read_unchecked),
            "fio": fio_measure(segments.slots, _C.IoOp.READ),
            "deep fio": fio_measure(segments.slots, _C.IoOp.READ, depth_bytes=DEEP_BYTES),
            **cold,
        }
        taken = medians(measures, num_rounds)
        for name, measure in cold.items():
            self.notes[name] = f"{min(measure.disk_shares):.0%} of the yardstick's bytes from disk"
        self._rate("cold read vs fio", taken, "fio", 0.9)
        self._rate("cold read vs one file per page, as SGLang reads it", taken, "files")
        self._rate("cold read vs one file per page, in place", taken, "in place", 5.0)
        taken["disk"] = min(taken["fio"], taken["deep fio"])
        what = "the disk itself, fio at its best depth, vs"
        self._rate(f"{what} one file per page, as SGLang reads it", taken, "files", figure="disk")
        self._rate(f"{what} one file per page, in place", taken, "in place", figure="disk")
        cpu = "CPU of cold reads vs"
        self._cpu(f"{cpu} one file per page, as SGLang reads it", "store read", "files read")
        self._cpu(f"{cpu} one file per page, in place", "store read", "in place", 0.1)
        self._rate("cold read vs LMDB", taken, "lmdb", 2.0)
        self._rate("read vs the same calls without checksums", taken, "unchecked", 0.9)
        self.notes.clear()

    def _add_writes(self, num_rounds: int) -> None:
        segments, costs = self.segments, self.costs
        chain = segments.chain
        measures = {
            "store": costs.of("store write", segments.write),
            "loose": costs.of("loose write", segments.write_loose),
            "fio": fio_measure(segments.slots, _C.IoOp.WRITE),
            "synced fio": fio_measure(segments.slots, _C.IoOp.WRITE, num_per_sync=chain),
            "files": costs.of("files write", lambda: self.files.replace(self.num_durable_files)),
        }
        taken = medians(measures, num_rounds)
        self._rate("write vs fio", taken, "fio", 0.9, figure="loose")
        self._rate("durable write vs fio", taken, "fio", 0.9)
        self._rate("durable write vs fio that syncs as often", taken, "synced fio")
        self._rate("durable write vs one file per page", taken, "files", 5.0)
        self._cpu("CPU of durable writes vs one file per page", "store write", "files write", 0.1)

    def _rate(
        self,
        what: str,
        taken: dict[str, float],
        against: str,
        target: float | None = None,
        *,
        figure: str = "store",
    ) -> None:
        figures = 1e3 / taken[figure], 1e3 / taken[against]
        note = self.notes.get(against, "")
        self.table.add(Row(f"{self.size} {what}", *figures, unit="MB/s", target=target, note=note))

    def _cpu(self, what: str, ours: str, theirs: str, target: float | None = None) -> None:
        figures = 1e3 * self.costs.cpu_per_gb(ours), 1e3 * self.costs.cpu_per_gb(theirs)
        row = Row(f"{self.size} {what}", *figures, "ms/GB", target, Bound.AT_MOST)
        self.table.add(row)


def medians(measures: Mapping[str, Callable[[], float]], num_rounds: int) -> dict[str, float]:
    samples = interleaved(measures, num_rounds=num_rounds)
    return {name: sample.median for name, sample in samples.items()}


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
            rows = PageRows(table, Path(folder).resolve(), page_bytes, num_pages)
            rows.add(1 if quick else 5)
    with tempfile.TemporaryDirectory(prefix="hicache-bench-", dir=".") as folder:
        add_index_rows(table, Path(folder).resolve(), NUM_MANY[quick])


def main(quick: bool) -> Table:
    table = Table("SegmentStore, O_DIRECT where the file system has it")
    add_rows(table, quick)
    return table


if __name__ == "__main__":
    args = parse_args(__doc__)
    sys.exit(main(args.quick).finish(args.out, "store_segment"))
