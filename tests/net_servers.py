"""The servers of the remote stores; a test is skipped where one is not installed, and says so."""

import atexit
import functools
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager

import pytest

from benchmarks import servers
from benchmarks.servers import BUCKET, S3_KEY, S3_SECRET, MissingWheel, Server

__all__ = [
    "BUCKET",
    "S3_KEY",
    "S3_SECRET",
    "rclone_s3",
    "shared_s3",
    "shared_valkey",
    "valkey",
]


def _or_skip(make: Callable[..., AbstractContextManager[Server]]):
    @contextmanager
    def needed(*options: str) -> Iterator[Server]:
        try:
            with make(*options) as server:
                yield server
        except MissingWheel as missing:
            pytest.skip(str(missing))

    return needed


valkey, rclone_s3 = _or_skip(servers.valkey), _or_skip(servers.rclone_s3)
_until_exit = ExitStack()
atexit.register(_until_exit.close)


@functools.cache
def shared_valkey() -> Server:
    """One for all tests that neither stop it nor look beyond their own namespaces."""
    return _until_exit.enter_context(valkey())


@functools.cache
def shared_s3() -> Server:
    """Likewise."""
    return _until_exit.enter_context(rclone_s3())
