"""RedisStore against redis-py with hiredis at the same Valkey, over TCP.

The yardstick is the better of one command at a time and pipelines of 32. It does less: it verifies
nothing, and leaves what it read in objects of its own.
"""

import sys
from collections.abc import Callable
from contextlib import closing

import redis

from benchmarks.harness import Row, Table, interleaved, parse_args, timed
from benchmarks.servers import valkey
from benchmarks.store_pages import SHAPES, Pages
from hicache_ext.storage import RedisServer, RedisStore

PIPELINES = (1, 32)  # commands of redis-py at a time; deeper ones are no faster, as it copies all


class PlainRedis:
    """The same pages by the client that everybody has."""

    def __init__(self, port: int, pages: Pages, depth: int) -> None:
        self._pages = pages
        self._depth = depth
        self._client = redis.Redis(port=port)

    def _batches(self) -> list[range]:
        num = len(self._pages.keys)
        return [range(i, min(i + self._depth, num)) for i in range(0, num, self._depth)]

    def write(self) -> None:
        for batch in self._batches():
            pipeline = self._client.pipeline(transaction=False)
            for i in batch:
                pipeline.set(self._pages.keys[i], bytes(self._pages.sources[i]), nx=True)
            assert all(pipeline.execute())

    def read(self) -> None:
        for batch in self._batches():
            pipeline = self._client.pipeline(transaction=False)
            for i in batch:
                pipeline.get(self._pages.keys[i])
            assert all(len(value) == self._pages.page_bytes for value in pipeline.execute())

    def exists(self) -> None:
        pipeline = self._client.pipeline(transaction=False)
        for key in self._pages.keys:
            pipeline.exists(key)
        assert all(pipeline.execute())

    def empty(self) -> None:
        self._client.flushall()


def add_rows(table: Table, quick: bool) -> None:
    """Two page sizes; a client's own work in one process, the server in another."""
    for page_bytes, num_pages in SHAPES[quick].items():
        pages = Pages(page_bytes, num_pages)
        with valkey() as server:
            address = RedisServer(port=server.port)
            plain = [PlainRedis(server.port, pages, depth) for depth in PIPELINES]
            with closing(RedisStore(address, pages.namespaces, pages.sizes)) as store:
                _compare(table, pages, store, plain, 1 if quick else 7)


def _compare(
    table: Table, pages: Pages, store: RedisStore, plain: list[PlainRedis], num_rounds: int
) -> None:
    def emptied(write: Callable[[], None]) -> Callable[[], float]:
        def measure() -> float:
            plain[0].empty()
            return timed(write)()

        return measure

    def add(name: str, measures: dict[str, Callable[[], float]], amount: float, unit: str) -> None:
        samples = interleaved(measures, num_rounds=num_rounds)
        best = min(sample.median for who, sample in samples.items() if who != "store")
        figures = amount / samples["store"].median, amount / best
        what = f"Valkey {name} {pages.page_bytes >> 10} KiB vs redis-py"
        table.add(Row(what, *figures, unit=unit, target=0.9))

    clients = {f"plain {depth}": client for depth, client in zip(PIPELINES, plain, strict=True)}
    writes = {"store": emptied(lambda: pages.write(store))}
    writes |= {who: emptied(client.write) for who, client in clients.items()}
    add("SET", writes, pages.num_bytes / 1e6, "MB/s")
    plain[0].empty()
    plain[0].write()
    pages.write(store)
    reads = {"store": timed(lambda: pages.read(store))}
    reads |= {who: timed(client.read) for who, client in clients.items()}
    add("GET", reads, pages.num_bytes / 1e6, "MB/s")
    pages.check()
    asks = {"store": timed(lambda: pages.exists(store)), "plain": timed(plain[-1].exists)}
    add("EXISTS", asks, len(pages.keys) / 1e3, "k/s")


def main(quick: bool) -> Table:
    table = Table("RedisStore against redis-py with hiredis, one Valkey, TCP on loopback")
    add_rows(table, quick)
    return table


if __name__ == "__main__":
    args = parse_args(__doc__)
    sys.exit(main(args.quick).finish(args.out, "store_redis"))
