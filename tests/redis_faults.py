"""A RedisStore with four good pages at a server that a test can spoil."""

import pytest
from resp_server import RespServer
from store_backends import NAMESPACES, PAGE_BYTES, put

from hicache_ext.storage import RedisStore
from hicache_ext.storage.breaker import CircuitBreaker

NUMBERS = range(4)


def open_store(server: RespServer, **options) -> RedisStore:
    options = {"timeout_s": 5.0, "breaker": CircuitBreaker(num_failures=1000)} | options
    return RedisStore(server.address, NAMESPACES, PAGE_BYTES, **options)


@pytest.fixture(name="server")
def good_server():
    with RespServer() as made:
        yield made


@pytest.fixture(name="store")
def good_store(server):
    """With pages 0 to 3, all of them good."""
    made = open_store(server)
    assert all(put(made, NUMBERS))
    yield made
    made.close()


def spoil(server: RespServer, nth: int, answer) -> None:
    """The GET number `nth` from now on gets `answer(the right one)`, the others the right one."""
    left = iter(range(10_000))

    def script(words: list[bytes]) -> bytes | None:
        right = server.answer(words)
        return answer(right) if words[0] == b"GET" and next(left) == nth else right

    server.script = script
