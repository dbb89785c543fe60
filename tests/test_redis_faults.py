"""A Redis server that is down, slow, cut short or lying: a miss, and the store stays usable."""

import random

import pytest
from redis_faults import NUMBERS, good_server, good_store, open_store, spoil
from resp_server import LastWords, bulk
from store_backends import PAGE_BYTES, get, key_of, page_of, put

from hicache_ext.errors import StorageError
from hicache_ext.keys import page_checksum
from hicache_ext.storage import Limit, RedisStore
from hicache_ext.storage.breaker import CircuitBreaker

server, store = good_server, good_store
VALUE_BYTES = PAGE_BYTES["full"] + 16


def value_of(number: int) -> bytes:
    page = page_of(number)
    return page + page_checksum(key_of(number), memoryview(page))


def test_a_good_server_is_read_from(store: RedisStore) -> None:
    assert get(store, NUMBERS) == [page_of(n) for n in NUMBERS]


# Where the connection is of no use afterwards, the pages after the bad one are misses, too.
LOST = {
    "hangs up": lambda right: None,
    "a page cut short": lambda right: LastWords(right[:2000]),
    "a length cut short": lambda right: LastWords(right[:3]),
    "more than its length says": lambda right: bulk(value_of(1) + b"xx").replace(b"4114", b"4112"),
    "not RESP": lambda right: b"HTTP/1.1 400 Bad Request\r\n\r\n",
    "an integer": lambda right: b":5\r\n",
    "an array": lambda right: b"*1\r\n$-1\r\n",
    "arrays in arrays": lambda right: b"*1\r\n" * 20_000,
    "no number": lambda right: b"$12_3\r\n",
    "a number too long": lambda right: b"$" + b"9" * 5000 + b"\r\n",
    "a length below -1": lambda right: b"$-2\r\n",
    "a length above any": lambda right: b"$999999999999\r\n",
    "a line without an end": lambda right: b"$" + b"1" * 100_000,
    "an empty line": lambda right: b"\r\n",
}


@pytest.mark.parametrize("what", LOST)
def test_a_connection_that_is_lost_in_a_batch(server, store: RedisStore, what: str) -> None:
    spoil(server, 1, LOST[what])
    num_links = server.num_links
    assert get(store, NUMBERS) == [page_of(0), None, None, None]
    stats = store.stats()
    assert stats["num_failed_calls"] == 1 and store.last_error
    assert stats["num_read_pages"] == 1 and stats["num_missed_pages"] == 3
    assert get(store, NUMBERS) == [page_of(n) for n in NUMBERS]
    assert server.num_links == num_links + 1  # the old one is never used again


# The value of one key: the others are read all the same.
BROKEN = {
    "shorter by one": value_of(1)[:-1],
    "longer by one": value_of(1) + b"x",
    "much longer": value_of(1) * 50,
    "empty": b"",
    "another page": value_of(2),
    "a bit of the page": bytes([value_of(1)[0] ^ 1]) + value_of(1)[1:],
    "a bit of the checksum": value_of(1)[:-1] + bytes([value_of(1)[-1] ^ 0x80]),
    "zeros": bytes(VALUE_BYTES),
}


@pytest.mark.parametrize("what", BROKEN)
def test_a_value_that_is_not_the_page(server, store: RedisStore, what: str) -> None:
    spoil(server, 1, lambda right: bulk(BROKEN[what]))
    assert get(store, NUMBERS) == [page_of(0), None, page_of(2), page_of(3)]
    assert store.stats()["num_corrupt_pages"] == 1
    server.script = None
    assert get(store, [1]) == [None]  # it was removed, so that it can be written again
    assert put(store, [1]) == [True]
    assert get(store, NUMBERS) == [page_of(n) for n in NUMBERS]
    assert store.stats()["num_failed_calls"] == 0


def test_a_key_of_another_type_is_a_miss(server, store: RedisStore) -> None:
    spoil(server, 1, lambda right: b"-WRONGTYPE Operation against a key\r\n")
    assert get(store, NUMBERS) == [page_of(0), None, page_of(2), page_of(3)]
    assert store.stats()["num_corrupt_pages"] == 1 and store.stats()["num_refused_pages"] == 0


REFUSALS = [
    "OOM command not allowed when used memory > 'maxmemory'.",
    "LOADING Valkey is loading the dataset in memory",
    "READONLY You can't write against a read only replica.",
    "MOVED 3999 127.0.0.1:6381",
    "NOAUTH Authentication required.",
    "NOPERM no permissions",
    "MASTERDOWN Link with MASTER is down",
]


@pytest.mark.parametrize("text", REFUSALS)
def test_refusals_are_told_page_by_page(server, store: RedisStore, text: str) -> None:
    server.script = lambda words: f"-{text}\r\n".encode()
    assert get(store, NUMBERS) == [None] * 4
    assert store.exists("full", [key_of(n) for n in NUMBERS]) == [False] * 4
    assert put(store, [7, 8]) == [False] * 2
    assert store.last_error == text
    assert store.stats()["num_refused_pages"] == 10
    assert store.stats()["num_failed_calls"] == 2  # reads; who refuses to write may be read from
    for call in (lambda: store.remove("full", [key_of(1)]), store.clear):
        with pytest.raises(StorageError, match=text.split()[0]):
            call()
    server.script = None
    assert get(store, NUMBERS) == [page_of(n) for n in NUMBERS]


def test_one_refusal_among_pages_is_one_miss(server, store: RedisStore) -> None:
    spoil(server, 2, lambda right: b"-TRYAGAIN\r\n")
    assert get(store, NUMBERS) == [page_of(0), page_of(1), None, page_of(3)]
    assert store.stats()["num_failed_calls"] == 0 and store.stats()["num_refused_pages"] == 1


@pytest.mark.parametrize("answer", [b"+QUEUED\r\n", b":1\r\n", b"$2\r\nno\r\n", b"*0\r\n"])
def test_what_is_no_answer_to_set_is_no_stored_page(server, store, answer: bytes) -> None:
    server.script = lambda words: answer if words[0] == b"SET" else server.answer(words)
    assert put(store, [7, 8]) == [False, False]
    assert "SET" in store.last_error and store.stats()["num_failed_calls"] == 1


@pytest.mark.parametrize("answer", [b"+OK\r\n", b"$1\r\n1\r\n", b"$-1\r\n", b"*1\r\n" * 9000])
def test_what_is_no_answer_to_exists_is_a_miss(server, store, answer: bytes) -> None:
    server.script = lambda words: answer
    assert store.exists("full", [key_of(0), key_of(1)]) == [False, False]
    assert store.stats()["num_failed_calls"] == 1


def test_a_server_that_takes_no_writes_is_still_read_from(server) -> None:
    store = open_store(server, breaker=CircuitBreaker(num_failures=1))
    put(store, NUMBERS)
    server.script = lambda words: (
        b"-OOM no room\r\n" if words[0] == b"SET" else server.answer(words)
    )
    for number in range(10, 15):
        assert put(store, [number]) == [False]
    assert get(store, NUMBERS) == [page_of(n) for n in NUMBERS]
    store.close()


def test_a_full_server_is_not_sent_the_whole_batch(server, store: RedisStore) -> None:
    asked = []

    def full(words: list[bytes]) -> bytes:
        asked.append(words[1])
        return b"-OOM\r\n"

    server.script = full
    assert put(store, range(3000)) == [False] * 3000
    assert 0 < len(asked) <= 1025


def test_any_bytes_in_place_of_an_answer(server, store: RedisStore) -> None:
    """A page that is delivered is the page, whatever a server sends."""
    parts = [b"$", b"-", b"*", b":", b"+", b"\r\n", b"4112", b"-1", b"1", b"5", b"\0", bulk(b"x")]
    num_hits = 0
    for seed in range(40):
        rng = random.Random(seed)

        def mangled(words: list[bytes], rng: random.Random = rng) -> bytes | None:
            right = server.answer(words)
            kind = rng.random()
            if kind < 0.7 or words[0] not in (b"GET", b"UNLINK"):
                return right
            if kind < 0.75:
                return None
            at, num_bytes = rng.randrange(len(right)), rng.randrange(4)
            return right[:at] + rng.choice(parts) + right[at + num_bytes :]

        server.script = mangled
        buffers = [bytearray(b"\xa5" * PAGE_BYTES["full"]) for _ in NUMBERS]
        pages = [memoryview(b) for b in buffers]
        keys = [key_of(n) for n in NUMBERS]
        found = store.read_into("full", keys, pages, Limit(0.05))
        for number, is_there, buffer in zip(NUMBERS, found, buffers, strict=True):
            num_hits += is_there
            assert not is_there or buffer == page_of(number), seed
        server.script = None
        put(store, NUMBERS)
        assert get(store, NUMBERS) == [page_of(n) for n in NUMBERS], seed
    assert 0 < num_hits < 40 * len(NUMBERS)
