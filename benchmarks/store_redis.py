"""RedisStore against plain Python clients at the same Valkey, over TCP.

The yardstick is the best of redis-py with hiredis, one command at a time and pipelines of 32, and
of hiredis on a socket with the same pipelines, whose pages go out as they lie. All do less: they
verify nothing, and leave what they read in objects of their own.
"""

import socket
import sys
from collections.abc import Callable, Iterable
from contextlib import closing

import hiredis
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


class PlainSocket(PlainRedis):
    """The least that Python can do: no page is copied on its way out, replies are hiredis's."""

    def __init__(self, port: int, pages: Pages, depth: int) -> None:
        super().__init__(port, pages, depth)
        self._socket = socket.create_connection(("127.0.0.1", port))
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._reader = hiredis.Reader()
        self._room = bytearray(1 << 20)

    def write(self) -> None:
        for batch in self._batches():
            parts: list[bytes | memoryview] = []
            for i in batch:
                page = self._pages.sources[i]
                head = b"*4\r\n$3\r\nSET\r\n$32\r\n%b\r\n$%d\r\n"
                parts += [head % (self._pages.keys[i], page.nbytes), page, b"\r\n$2\r\nNX\r\n"]
            self._send(parts)
            assert all(reply == b"OK" for reply in self._replies(len(batch)))

    def read(self) -> None:
        for batch in self._batches():
            self._send([b"*2\r\n$3\r\nGET\r\n$32\r\n%b\r\n" % self._pages.keys[i] for i in batch])
            assert all(len(r) == self._pages.page_bytes for r in self._replies(len(batch)))

    def _send(self, parts: list[bytes | memoryview]) -> None:
        while parts:
            num_bytes = self._socket.sendmsg(parts[:512])
            while parts and num_bytes >= len(parts[0]):
                num_bytes -= len(parts.pop(0))
            if num_bytes:
                parts[0] = memoryview(parts[0])[num_bytes:]

    def _replies(self, num: int) -> Iterable[bytes]:
        for _ in range(num):
            while (reply := self._reader.gets()) is False:
                num_bytes = self._socket.recv_into(self._room)
                self._reader.feed(self._room, 0, num_bytes)
            yield reply


def add_rows(table: Table, quick: bool) -> None:
    """Two page sizes; a client's own work in one process, the server in another."""
    for page_bytes, num_pages in SHAPES[quick].items():
        pages = Pages(page_bytes, num_pages)
        with valkey() as server:
            address = RedisServer(port=server.port)
            plain = [PlainRedis(server.port, pages, depth) for depth in PIPELINES]
            plain.append(PlainSocket(server.port, pages, max(PIPELINES)))
            store = RedisStore(address, pages.namespaces, pages.sizes, timeout_s=60.0)
            with closing(store):
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
        best = min((who for who in samples if who != "store"), key=lambda w: samples[w].median)
        figures = [amount / samples[who].median for who in ("store", best)]
        what = f"Valkey {name} {pages.page_bytes >> 10} KiB vs a plain client"
        table.add(Row(what, *figures, unit=unit, target=0.9, note=best))

    names = [*(f"redis-py, {depth} a time" for depth in PIPELINES), "hiredis on a socket"]
    clients = dict(zip(names, plain, strict=True))
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
    asks = {"store": timed(lambda: pages.exists(store)), "redis-py": timed(plain[1].exists)}
    add("EXISTS", asks, len(pages.keys) / 1e3, "k/s")


def main(quick: bool) -> Table:
    table = Table("RedisStore against plain clients, one Valkey, TCP on loopback")
    add_rows(table, quick)
    return table


if __name__ == "__main__":
    args = parse_args(__doc__)
    sys.exit(main(args.quick).finish(args.out, "store_redis"))
