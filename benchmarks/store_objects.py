"""ObjectStore against obstore itself with one object per page, at the same S3 service (rclone).

The yardstick has 16 requests in flight in one event loop. It does less: it verifies nothing, and
leaves what it read in objects of its own.
"""

import asyncio
import itertools
import sys
from collections.abc import Awaitable, Callable
from contextlib import ExitStack, closing
from typing import Any

import obstore

from benchmarks.harness import Row, Table, interleaved, parse_args, timed
from benchmarks.servers import BUCKET, S3_KEY, S3_SECRET, rclone_s3
from benchmarks.store_pages import Pages
from hicache_ext.storage import ObjectStore, open_s3

SHAPES = {False: {256 << 10: 512, 1 << 20: 128}, True: {64 << 10: 16}}
NUM_REQUESTS = 16


class PlainObjects:
    """One object per page, in a new folder for each write."""

    def __init__(self, bucket: Any, pages: Pages) -> None:
        self._bucket, self._pages = bucket, pages
        self._folders = itertools.count()
        self._folder = ""

    def write(self) -> None:
        self._folder = f"plain/{next(self._folders)}"

        async def put(i: int) -> None:
            source = self._pages.sources[i]
            await obstore.put_async(self._bucket, self._path(i), source, use_multipart=False)

        self._all(put)

    def read(self) -> None:
        async def get(i: int) -> None:
            result = await obstore.get_async(self._bucket, self._path(i))
            assert len(await result.bytes_async()) == self._pages.page_bytes

        self._all(get)

    def _path(self, i: int) -> str:
        return f"{self._folder}/{self._pages.keys[i].hex()}"

    def _all(self, call: Callable[[int], Awaitable[None]]) -> None:
        async def run() -> None:
            numbers = iter(range(len(self._pages.keys)))

            async def worker() -> None:
                for i in numbers:
                    await call(i)

            await asyncio.gather(*(worker() for _ in range(NUM_REQUESTS)))

        asyncio.run(run())


def add_rows(table: Table, quick: bool) -> None:
    """Two page sizes; a client's own work in one process, the service in another."""
    for page_bytes, num_pages in SHAPES[quick].items():
        with rclone_s3() as server:
            bucket = open_s3(
                BUCKET,
                endpoint=f"http://127.0.0.1:{server.port}",
                access_key_id=S3_KEY,
                secret_access_key=S3_SECRET,
                timeout_s=60.0,
            )
            _compare(table, Pages(page_bytes, num_pages), bucket, 1 if quick else 7)


def _compare(table: Table, pages: Pages, bucket: Any, num_rounds: int) -> None:
    plain, numbers, stores = PlainObjects(bucket, pages), itertools.count(), ExitStack()
    store: ObjectStore

    def write() -> float:
        """Into a new folder, as the yardstick does: deleting files slows a disk down."""
        nonlocal store
        prefix = f"store/{next(numbers)}"
        store = ObjectStore(bucket, pages.namespaces, pages.sizes, prefix=prefix, timeout_s=60.0)
        stores.enter_context(closing(store))
        return timed(lambda: pages.write(store))()

    with stores:
        writes = interleaved({"store": write, "plain": timed(plain.write)}, num_rounds=num_rounds)
        reads = interleaved(
            {"store": timed(lambda: pages.read(store)), "plain": timed(plain.read)},
            num_rounds=num_rounds,
        )
        pages.check()
    for name, samples in (("PUT", writes), ("GET", reads)):
        figures = [pages.num_bytes / samples[who].median / 1e6 for who in ("store", "plain")]
        what = f"S3 {name} {pages.page_bytes >> 10} KiB vs obstore, one object per page"
        table.add(Row(what, *figures, unit="MB/s", target=0.9))


def main(quick: bool) -> Table:
    table = Table("ObjectStore against obstore, one rclone serve s3 on loopback")
    add_rows(table, quick)
    return table


if __name__ == "__main__":
    args = parse_args(__doc__)
    sys.exit(main(args.quick).finish(args.out, "store_objects"))
