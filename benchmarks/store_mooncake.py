"""MooncakeStore against the Python calls of its engine: the same buffers and cluster, no checks.

The yardstick is the best of batch_put_from and batch_get_into in batches of several sizes. Master
and two storage nodes run on loopback: client and nodes share the processors, so what is compared is
the processor time of both for each byte.
"""

import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

from benchmarks.harness import Row, Sample, Table, interleaved, parse_args, timed
from hicache_ext import HostBuffer
from hicache_ext.storage import MooncakeClient, MooncakeStore, StoreNamespace
from hicache_ext.storage.mooncake_client import load_engine
from hicache_ext.storage.mooncake_nodes import MooncakeNodes
from hicache_ext.storage.ports import free_port

SHAPES = ((256 << 10, 4000), (1 << 20, 1000))
QUICK_SHAPES = ((256 << 10, 64), (1 << 20, 16))
BATCHES = (32, 128, 256)  # of plain calls; of 4000 pages at once the engine loses some (-800)
NODE_BYTES = 2 << 30
TARGET = 0.9


class Bench:
    """Pages of one size in a buffer that both clients have registered."""

    def __init__(self, master: str, page_bytes: int, num_pages: int) -> None:
        self.page_bytes, self.num_pages = page_bytes, num_pages
        self.num_bytes = page_bytes * num_pages
        self.buffer = HostBuffer(self.num_bytes)
        view = self.buffer.view()
        for start in range(0, self.num_bytes, page_bytes):  # no two pages alike
            view[start : start + 8] = start.to_bytes(8, "little")
        self.pages = [view[i * page_bytes :][:page_bytes] for i in range(num_pages)]
        self.client = MooncakeClient(master, call_timeout_s=10.0)
        self.client.memory.add(view)
        space = StoreNamespace("m", "r", "float32", {"page_bytes": page_bytes}, 16, "0/1")
        self.store = MooncakeStore(self.client, {"full": space}, {"full": page_bytes})
        self.plain = load_engine().MooncakeDistributedStore()
        name = f"127.0.0.1:{free_port('127.0.0.1')}"
        assert self.plain.setup(name, "P2PHANDSHAKE", 0, 1 << 20, "tcp", "", master) == 0
        assert self.plain.register_buffer(self.buffer.address, self.num_bytes) == 0
        self._generations = count()
        self.keys: list[bytes] = []
        self.names: list[str] = []

    def forget(self) -> None:
        """The next write is of new keys, and the cluster is empty."""
        self.store.clear()
        self.plain.remove_all(True)
        first = next(self._generations) * self.num_pages
        self.keys = [(first + i).to_bytes(32, "little") for i in range(self.num_pages)]
        self.names = [f"plain/{key.hex()}" for key in self.keys]

    def write(self) -> None:
        assert all(self.store.write_from("full", self.keys, self.pages))

    def read(self) -> None:
        assert all(self.store.read_into("full", self.keys, self.pages))

    def plain_write(self, batch: int) -> None:
        self._in_batches(self.plain.batch_put_from, batch, 0)

    def plain_read(self, batch: int) -> None:
        self._in_batches(self.plain.batch_get_into, batch, self.page_bytes)

    def close(self) -> None:
        self.store.close()
        self.client.close()
        self.plain.close()

    def _in_batches(self, move: Callable[..., Any], batch: int, expected: int) -> None:
        for start in range(0, self.num_pages, batch):
            names = self.names[start : start + batch]
            base = self.buffer.address + start * self.page_bytes
            pointers = [base + i * self.page_bytes for i in range(len(names))]
            codes = move(names, pointers, [self.page_bytes] * len(names))
            assert set(codes) == {expected}, (batch, Counter(codes))


def add_rows(table: Table, quick: bool) -> None:
    """Write and read of each shape, in GB/s."""
    shapes, num_rounds = (QUICK_SHAPES, 3) if quick else (SHAPES, 7)
    with tempfile.TemporaryDirectory(prefix="hicache-bench-") as logs:
        options = {"num_nodes": 2, "node_bytes": NODE_BYTES, "log_folder": Path(logs)}
        with MooncakeNodes(**options) as nodes:
            for page_bytes, num_pages in shapes:
                bench = Bench(nodes.master, page_bytes, num_pages)
                add_shape(table, bench, num_rounds)
                bench.close()


def add_shape(table: Table, bench: Bench, num_rounds: int) -> None:
    """A write is followed by a read of the same pages."""
    writes: dict[str, list[float]] = {}

    def turn(write: Callable[[], None], read: Callable[[], None], name: str) -> Callable[[], float]:
        def measure() -> float:
            bench.forget()
            writes.setdefault(name, []).append(timed(write)())
            return timed(read)()

        return measure

    turns = {"ours": turn(bench.write, bench.read, "ours")}
    for batch in sorted({min(batch, bench.num_pages) for batch in BATCHES}):
        name = f"plain, {batch} a call"
        write = partial(bench.plain_write, batch)
        turns[name] = turn(write, partial(bench.plain_read, batch), name)
    reads = interleaved(turns, num_rounds=num_rounds)
    written = {name: Sample(tuple(taken[-num_rounds:])) for name, taken in writes.items()}
    for what, samples in (("write", written), ("read", reads)):
        best = min((n for n in samples if n != "ours"), key=lambda n: samples[n].median)
        rates = {name: bench.num_bytes / sample.median / 1e9 for name, sample in samples.items()}
        table.add(
            Row(
                f"Mooncake {what}, {bench.num_pages} x {bench.page_bytes >> 10} KiB",
                rates["ours"],
                rates[best],
                unit="GB/s",
                target=TARGET,
                note=best,
            )
        )


def main(quick: bool) -> Table:
    table = Table("MooncakeStore against plain calls of the engine, TCP on loopback")
    add_rows(table, quick)
    return table


if __name__ == "__main__":
    args = parse_args(__doc__)
    sys.exit(main(args.quick).finish(args.out, "store_mooncake"))
