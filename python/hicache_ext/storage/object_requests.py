"""Requests to an object store through obstore: several at a time, each call under its patience."""

import asyncio
import contextlib
import threading
from collections.abc import Awaitable, Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, wait
from datetime import timedelta
from itertools import islice
from typing import Any, TypeVar

from ..errors import StorageError
from .remote_call import EngineError, Patience

_NUM_NEXT = 4  # of a call that wait for their turn: the next one begins when nobody is woken yet
_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


class Absent(EngineError):
    """There is no such object."""


def open_s3(
    bucket: str,
    *,
    endpoint: str | None = None,
    access_key_id: str | None = None,
    secret_access_key: str | None = None,
    region: str = "us-east-1",
    timeout_s: float = 10.0,
) -> Any:
    """A bucket of an S3-compatible service, as obstore.store.S3Store, for ObjectStore.

    Without credentials those of the environment count, as obstore finds them. `timeout_s` is that
    of one request with its retries. StorageError without the extra `s3`, or on a bad bucket name.
    """
    if not 3 <= len(bucket) <= 63:
        raise StorageError(f"bucket {bucket!r}: {len(bucket)} characters, expected 3 to 63")
    store = _obstore("store")
    given = {
        "endpoint": endpoint,
        "access_key_id": access_key_id,
        "secret_access_key": secret_access_key,
    }
    request = timedelta(seconds=timeout_s)
    return store.S3Store(
        bucket,
        region=region,
        client_options={
            "allow_http": True,
            "timeout": request,
            "connect_timeout": min(request, timedelta(seconds=1)),
        },
        retry_config={"max_retries": 2, "retry_timeout": request},
        **{name: value for name, value in given.items() if value is not None},
    )


class Requests:
    """At most `num_requests` at a time, of all calls together, in an event loop on a thread of its
    own. A request that its call gives up is cancelled.
    """

    def __init__(self, objects: Any, num_requests: int) -> None:
        """`objects`: a store of obstore.store. StorageError without the extra `s3`."""
        self._objects = objects
        self._num_requests = num_requests
        self._obstore = _obstore("")
        self._slots = asyncio.Semaphore(num_requests)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(
            target=self._loop.run_forever, name="hicache-objects", daemon=True
        )
        self._thread.start()

    def close(self) -> None:
        """When no call is under way."""
        asyncio.run_coroutine_threadsafe(self._give_up_all(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def run(self, request: Callable[[], Awaitable[_Result]], patience: Patience) -> _Result:
        """One request. CallOver, EngineError; Absent if it asks for what is not there."""
        for _, future in self.map(lambda _: request(), [None], patience):
            return future.result()
        raise AssertionError("map() ends when all are done")

    def map(
        self,
        request: Callable[[_Item], Awaitable[_Result]],
        items: Iterable[_Item],
        patience: Patience,
    ) -> Iterator[tuple[_Item, "Future[_Result]"]]:
        """As they end. Items are taken when there is room for them, so they may be large."""
        source = iter(items)
        waiting: dict[Future[_Result], _Item] = {}

        async def in_turn(item: _Item) -> _Result:
            async with self._slots:
                return await request(item)

        try:
            while True:
                for item in islice(source, self._num_requests + _NUM_NEXT - len(waiting)):
                    future = asyncio.run_coroutine_threadsafe(in_turn(item), self._loop)
                    waiting[future] = item
                if not waiting:
                    return
                done, _ = wait(waiting, patience.wait_s(), FIRST_COMPLETED)
                for future in done:
                    yield waiting.pop(future), future
        finally:
            for future in waiting:
                future.cancel()

    async def names(self, folder: str) -> list[str]:
        """The names below it."""
        with self._own_errors():
            chunks = [chunk async for chunk in self._obstore.list(self._objects, folder)]
        return [meta["path"].removeprefix(folder + "/") for chunk in chunks for meta in chunk]

    async def put(self, path: str, data: bytes | bytearray) -> None:
        """In one request, so that it is there as a whole or not at all."""
        with self._own_errors():
            await self._obstore.put_async(self._objects, path, data, use_multipart=False)

    async def get(self, path: str) -> memoryview:
        with self._own_errors():
            result = await self._obstore.get_async(self._objects, path)
            return memoryview(await result.bytes_async())

    async def get_ranges(self, path: str, starts: list[int], num_bytes: int) -> list[memoryview]:
        """So many bytes from each start; adjacent ones are one request."""
        ranges = {"starts": starts, "lengths": [num_bytes] * len(starts)}
        with self._own_errors():
            parts = await self._obstore.get_ranges_async(self._objects, path, **ranges)
            return [memoryview(part) for part in parts]

    async def delete(self, paths: list[str]) -> None:
        """Those that are not there are as good as deleted."""
        for first in range(0, len(paths), 1000):
            with contextlib.suppress(Absent), self._own_errors():
                await self._obstore.delete_async(self._objects, paths[first : first + 1000])

    @contextlib.contextmanager
    def _own_errors(self) -> Iterator[None]:
        try:
            yield
        except FileNotFoundError as error:
            raise Absent(_short(error)) from error
        except self._obstore.exceptions.BaseError as error:
            raise EngineError(_short(error)) from error

    async def _give_up_all(self) -> None:
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _short(error: Exception) -> str:
    """Without what obstore adds for its developers."""
    return str(error).partition("\n\nDebug source")[0][:1000]


def _obstore(module: str) -> Any:
    try:
        import obstore
        import obstore.store
    except ImportError as error:
        raise StorageError("ObjectStore needs obstore: pip install 'hicache_ext[s3]'") from error
    return getattr(obstore, module) if module else obstore
