"""The I/O engine by itself against fio: the same file, page size, depth and number of pages.

Every other slot of the file is used, so that the engine cannot join neighbours where fio does not;
what joining them brings is a row of its own.
"""

import mmap
import os
import random
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from benchmarks.fio import fio_s
from benchmarks.harness import Row, Sample, Table, interleaved, parse_args, timed
from hicache_ext import _C

DEPTH_BYTES = 16 << 20  # in flight: the engine's default
CALL_BYTES = 1 << 20  # up to which it joins neighbours
BATCH_BYTES = 1 << 30  # of one call: a host pool of this size is what pages are moved into
# Whether it is the short form -> {page bytes: number of pages}
SHAPES = {False: {256 << 10: 4000, 1 << 20: 4000}, True: {256 << 10: 16}}


class Slots:
    """A file with a slot between each two pages, already written, and memory for a batch of
    pages, by default of BATCH_BYTES.
    """

    def __init__(
        self, folder: Path, page_bytes: int, num_pages: int, *, batch: int | None = None
    ) -> None:
        self.page_bytes, self.num_pages = page_bytes, num_pages
        self.path = folder / "slots"
        self.batch = batch or min(num_pages, BATCH_BYTES // page_bytes)
        self.memory = mmap.mmap(-1, self.batch * page_bytes)
        self.memory.madvise(mmap.MADV_HUGEPAGE)
        self.memory[: 1 << 20] = random.Random(1).randbytes(1 << 20)
        self.array = np.frombuffer(self.memory, np.uint8).reshape(self.batch, page_bytes)
        self.array[1:] = self.array[0]
        self.engines = {
            "io_uring": _C.IoEngine(_C.IoPath.AUTO, max_in_flight_bytes=DEPTH_BYTES),
            "threads": _C.IoEngine(_C.IoPath.THREADS, max_in_flight_bytes=DEPTH_BYTES),
        }
        has_direct = _C.probe_direct_io(str(folder))[0]
        flags = os.O_RDWR | os.O_CREAT | (os.O_DIRECT if has_direct else 0)
        self.file = os.open(self.path, flags, 0o600)
        for engine in self.engines.values():
            engine.add_file(self.file)
            engine.add_buffer(self.array.ctypes.data, self.array.nbytes)
        self.run("threads", _C.IoOp.WRITE, range(2 * num_pages))
        rng = random.Random(2)
        self.apart = rng.sample(range(0, 2 * num_pages, 2), num_pages)

    def run(self, engine: str, op: _C.IoOp, slots: Sequence[int]) -> None:
        """Moves a page for each slot, a batch after the other, and syncs after writes."""
        for first in range(0, len(slots), self.batch):
            requests = [
                (op, self.file, slot * self.page_bytes, [self.array[i]])
                for i, slot in enumerate(slots[first : first + self.batch])
            ]
            assert not any(self.engines[engine].run(requests))
        if op is _C.IoOp.WRITE:
            assert self.engines[engine].sync(self.file) == 0

    def fio(
        self,
        op: _C.IoOp,
        *,
        is_random: bool,
        depth_bytes: int = DEPTH_BYTES,
        num_per_sync: int = 0,
    ) -> float:
        """Seconds for as many pages as the file is meant for."""
        return fio_s(
            self.path,
            op,
            page_bytes=self.page_bytes,
            num_pages=self.num_pages,
            depth=depth_bytes // self.page_bytes,
            is_random=is_random,
            num_per_sync=num_per_sync,
        )

    def close(self) -> None:
        os.close(self.file)
        self.path.unlink()


def compare(slots: Slots, op: _C.IoOp, num_rounds: int) -> dict[str, Sample]:
    """Seconds of both engines and of fio for pages apart; for neighbours where some are joined."""
    row = range(slots.num_pages)
    measures: dict[str, Callable[[], float]] = {
        "io_uring": timed(lambda: slots.run("io_uring", op, slots.apart)),
        "threads": timed(lambda: slots.run("threads", op, slots.apart)),
        "fio": lambda: slots.fio(op, is_random=True),
    }
    if slots.page_bytes < CALL_BYTES:
        measures["neighbours"] = timed(lambda: slots.run("io_uring", op, row))
        measures["fio in a row"] = lambda: slots.fio(op, is_random=False)
    return interleaved(measures, num_rounds=num_rounds)


def add_rows(table: Table, quick: bool) -> None:
    """Reads and writes of each page size; io_uring has the target, the rest informs."""
    pairs = [("io_uring", "fio", 0.9), ("threads", "fio", None)]
    pairs.append(("neighbours", "fio in a row", None))
    for page_bytes, num_pages in SHAPES[quick].items():
        with tempfile.TemporaryDirectory(prefix="hicache-bench-", dir=".") as folder:
            slots = Slots(Path(folder).resolve(), page_bytes, num_pages)
            try:
                for op in (_C.IoOp.READ, _C.IoOp.WRITE):
                    samples = compare(slots, op, 1 if quick else 5)
                    for who, against, target in pairs:
                        if who not in samples:
                            continue
                        rates = [
                            page_bytes * num_pages / samples[name].median / 1e6
                            for name in (who, against)
                        ]
                        what = f"{op.name.lower()} {page_bytes >> 10} KiB, {who} vs {against}"
                        table.add(Row(what, *rates, unit="MB/s", target=target))
            finally:
                slots.close()


def main(quick: bool) -> Table:
    table = Table("The I/O engine against fio, O_DIRECT where the file system has it")
    add_rows(table, quick)
    return table


if __name__ == "__main__":
    args = parse_args(__doc__)
    sys.exit(main(args.quick).finish(args.out, "store_engine"))
