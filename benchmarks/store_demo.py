"""SegmentStore: a batch of pages as the demo's model has them, against the same bytes in files.

Yardsticks: `dd` of one file with all the bytes, `fio` on it, and what one file per page costs, by a
plain open-read-close loop without any verification. Cold: fdatasync, then posix_fadvise(DONTNEED).
fio reads the file in a row, 1 MiB a call, as deep as the store does, many times over: so its start
costs it nothing.
"""

import mmap
import os
import random
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from benchmarks.fio import fio_s
from benchmarks.harness import Bound, Row, Sample, Table, interleaved, parse_args, timed
from benchmarks.store_engine import CALL_BYTES, DEPTH_BYTES
from hicache_ext import _C
from hicache_ext.storage import PoolBatch, SegmentStore, StoreNamespace

FIO_PASSES = 16
SHAPES = {"full": (256, 96 << 10), "swa": (32, 480 << 10)}
QUICK_SHAPES = {"full": (16, 96 << 10), "swa": (2, 480 << 10)}


class Bench:
    """A store filled with `shapes`, the same bytes in one file, and buffers to read into."""

    def __init__(self, folder: Path, shapes: dict[str, tuple[int, int]]) -> None:
        self.folder = folder
        self.page_bytes = {pool: num_bytes for pool, (_, num_bytes) in shapes.items()}
        self.num_bytes = sum(n * num_bytes for n, num_bytes in shapes.values())
        rng = random.Random(1)
        self.keys = {pool: [rng.randbytes(32) for _ in range(n)] for pool, (n, _) in shapes.items()}
        memory = mmap.mmap(-1, self.num_bytes)
        memory.madvise(mmap.MADV_HUGEPAGE)
        view, offset = memoryview(memory), 0
        self.pages: dict[str, list[memoryview]] = {}
        for pool, (n, num_bytes) in shapes.items():
            starts = [offset + i * num_bytes for i in range(n)]
            self.pages[pool] = [view[start : start + num_bytes] for start in starts]
            offset += n * num_bytes
        for pages in self.pages.values():
            for page in pages:
                page[:] = rng.randbytes(len(page))
        self.one_file = folder / "one"
        self.one_file.write_bytes(view)
        self.store = self.open_store("store")
        self.write_store(self.store)
        self.write_plain_files("plain")
        self.files = sorted(p for p in (folder / "plain").rglob("*") if p.is_file())
        self.segments = sorted((folder / "store").rglob("*.pages"))

    def open_store(self, name: str) -> SegmentStore:
        layout = {"num_layers": 1}
        namespaces = {
            pool: StoreNamespace("m", "r", "float32", layout, 16, "0/1") for pool in self.keys
        }
        return SegmentStore(self.folder / name, namespaces, self.page_bytes)

    def write_store(self, store: SegmentStore) -> None:
        for pool, keys in self.keys.items():
            assert all(store.write_from(pool, keys, self.pages[pool]))

    def read_store(self) -> None:
        """All pools in one submission, as a restore does."""
        batches = [PoolBatch(pool, keys, self.pages[pool]) for pool, keys in self.keys.items()]
        assert all(map(all, self.store.read_many(batches)))

    def read_dd(self) -> None:
        command = ["dd", f"if={self.one_file}", "of=/dev/null", "bs=1M"]
        subprocess.run(command, check=True, stderr=subprocess.DEVNULL)

    def fio_s(self) -> float:
        """Seconds for as many bytes."""
        num_calls = FIO_PASSES * self.num_bytes // CALL_BYTES
        depth = DEPTH_BYTES // CALL_BYTES
        shape = {"page_bytes": CALL_BYTES, "num_pages": num_calls, "depth": depth}
        taken_s = fio_s(self.one_file, _C.IoOp.READ, **shape, is_random=False)
        return taken_s * self.num_bytes / (num_calls * CALL_BYTES)

    def read_files(self) -> None:
        target = memoryview(bytearray(max(self.page_bytes.values())))
        for path in self.files:
            fd = os.open(path, os.O_RDONLY)
            os.readv(fd, [target])
            os.close(fd)

    def write_fresh_store(self) -> None:
        store = self.open_store("fresh")
        self.write_store(store)
        store.close()

    def write_plain_files(self, name: str = "fresh") -> None:
        for pool, pages in self.pages.items():
            (self.folder / name / pool).mkdir(parents=True, exist_ok=True)
            for i, page in enumerate(pages):
                path = f"{self.folder}/{name}/{pool}/{i}"
                with open(path + ".tmp", "wb", buffering=0) as file:
                    file.write(page)
                os.replace(path + ".tmp", path)

    def remove_fresh(self) -> None:
        shutil.rmtree(self.folder / "fresh", ignore_errors=True)

    def drop_caches(self) -> None:
        for path in [self.one_file, *self.files, *self.segments]:
            fd = os.open(path, os.O_RDONLY)
            os.fdatasync(fd)
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
            os.close(fd)


def prepared(prepare: Callable[[], object], fn: Callable[[], object]) -> Callable[[], float]:
    """Time `fn` alone, after `prepare`."""

    def measure() -> float:
        prepare()
        return timed(fn)()

    return measure


def add_rows(table: Table, quick: bool) -> None:
    """Reads warm and cold, and writes."""
    num_rounds = 3 if quick else 15
    with tempfile.TemporaryDirectory(prefix="hicache-bench-") as folder:
        bench = Bench(Path(folder), QUICK_SHAPES if quick else SHAPES)
        reads = {"store": bench.read_store, "dd": bench.read_dd, "files": bench.read_files}
        warm = interleaved({k: timed(fn) for k, fn in reads.items()}, num_rounds=num_rounds)
        dropped = {k: prepared(bench.drop_caches, fn) for k, fn in reads.items()}
        cold = interleaved({**dropped, "fio": bench.fio_s}, num_rounds=num_rounds)
        writes = {"store": bench.write_fresh_store, "plain": bench.write_plain_files}
        write = interleaved(
            {k: prepared(bench.remove_fresh, fn) for k, fn in writes.items()},
            num_rounds=num_rounds,
        )
        bench.store.close()
    at_most = {"unit": "ms", "bound": Bound.AT_MOST}

    def add(name: str, sample: Sample, yardstick: Sample, target: float | None) -> None:
        figure, against = 1e3 * sample.median, 1e3 * yardstick.median
        rate = f"{bench.num_bytes / sample.median / 1e9:.2f} GB/s"
        table.add(Row(name, figure, against, target=target, note=rate, **at_most))

    add("demo: read warm vs dd of one file", warm["store"], warm["dd"], 2.0)
    add("demo: read warm vs one file per page", warm["store"], warm["files"], None)
    add("demo: read cold vs dd of one file", cold["store"], cold["dd"], 1.5)
    add("demo: read cold vs fio", cold["store"], cold["fio"], 1.3)
    add("demo: read cold vs one file per page", cold["store"], cold["files"], 1.0)
    add("demo: write vs one file per page", write["store"], write["plain"], 1.0)


def main(quick: bool) -> Table:
    table = Table("SegmentStore with the pages of the demo's model")
    add_rows(table, quick)
    return table


if __name__ == "__main__":
    args = parse_args(__doc__)
    sys.exit(main(args.quick).finish(args.out, "store_demo"))
