"""Requests to an object store through obstore: several at a time, each call under its patience."""

import functools
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from datetime import timedelta
from itertools import islice
from typing import Any, TypeVar

from ..errors import StorageError
from .remote_call import EngineError, Patience

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
    """At most `num_requests` at a time, of all calls together.

    A request that its call gave up goes on until obstore's own timeout, and on bytes of its own.
    """

    def __init__(self, objects: Any, num_requests: int) -> None:
        """`objects`: a store of obstore.store. StorageError without the extra `s3`."""
        self._objects = objects
        self._num_requests = num_requests
        self._obstore = _obstore("")
        self._executor = ThreadPoolExecutor(num_requests, thread_name_prefix="hicache-objects")

    def close(self) -> None:
        self._executor.shutdown(cancel_futures=True)

    def run(self, call: Callable[[], _Result], patience: Patience) -> _Result:
        """One request. CallOver, EngineError; Absent if it asks for what is not there."""
        for _, future in self.map(lambda _: call(), [None], patience):
            return future.result()
        raise AssertionError("map() ends when all are done")

    def map(
        self, call: Callable[[_Item], _Result], items: Iterable[_Item], patience: Patience
    ) -> Iterator[tuple[_Item, "Future[_Result]"]]:
        """As they end. Items are taken when there is room for them, so they may be large."""
        source = iter(items)
        waiting: dict[Future[_Result], _Item] = {}
        try:
            while True:
                for item in islice(source, self._num_requests - len(waiting)):
                    waiting[self._executor.submit(call, item)] = item
                if not waiting:
                    return
                done, _ = wait(waiting, patience.wait_s(), FIRST_COMPLETED)
                for future in done:
                    yield waiting.pop(future), future
        finally:
            for future in waiting:
                future.cancel()

    def names(self, folder: str) -> list[str]:
        """The names below it."""
        chunks = self._call(lambda: list(self._obstore.list(self._objects, folder)))
        return [meta["path"].removeprefix(folder + "/") for chunk in chunks for meta in chunk]

    def put(self, path: str, data: bytes) -> None:
        """In one request, so that it is there as a whole or not at all."""
        self._call(lambda: self._obstore.put(self._objects, path, data, use_multipart=False))

    def get(self, path: str) -> memoryview:
        return memoryview(self._call(lambda: self._obstore.get(self._objects, path).bytes()))

    def get_ranges(self, path: str, starts: list[int], num_bytes: int) -> list[memoryview]:
        """So many bytes from each start; adjacent ones are one request."""
        lengths = [num_bytes] * len(starts)
        parts = self._call(
            lambda: self._obstore.get_ranges(self._objects, path, starts=starts, lengths=lengths)
        )
        return [memoryview(part) for part in parts]

    def delete(self, paths: list[str]) -> None:
        """Those that are not there are as good as deleted."""
        for first in range(0, len(paths), 1000):
            some = paths[first : first + 1000]
            try:
                self._call(functools.partial(self._obstore.delete, self._objects, some))
            except Absent:
                continue

    def _call(self, call: Callable[[], Any]) -> Any:
        try:
            return call()
        except FileNotFoundError as error:
            raise Absent(_short(error)) from error
        except self._obstore.exceptions.BaseError as error:
            raise EngineError(_short(error)) from error


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
