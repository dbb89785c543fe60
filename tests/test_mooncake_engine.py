"""MooncakeStore over an engine that does as it is told: codes, lies, loss, what is refused."""

import sys
from collections.abc import Iterator

import pytest
from mooncake_fake import (
    GET,
    FakeEngine,
    client_of,
    get,
    install,
    key_of,
    name_of,
    page_of,
    put,
    slow_down,
)
from mooncake_tools import make_store

from hicache_ext.errors import StorageError
from hicache_ext.storage import MooncakeClient, MooncakeStore
from hicache_ext.storage.breaker import BreakerState, CircuitBreaker
from hicache_ext.storage.mooncake_client import CHUNK_PAGES


@pytest.fixture
def engine(monkeypatch) -> FakeEngine:
    return install(monkeypatch)


@pytest.fixture
def client(engine: FakeEngine) -> Iterator[MooncakeClient]:
    yield from client_of(engine)


@pytest.fixture
def store(client: MooncakeClient) -> Iterator[MooncakeStore]:
    store = make_store(client)
    yield store
    store.close()


def counted(store: MooncakeStore) -> dict[str, int]:
    """Of the counters of failed pages, those above 0."""
    stats = store.stats()
    names = ("unreachable_pages", "refused_pages", "corrupt_pages", "engine_errors")
    return {name: stats[f"num_{name}"] for name in names if stats[f"num_{name}"]}


CODES = {
    -704: None,
    -703: None,
    -706: None,
    -800: "unreachable_pages",
    -200: "refused_pages",
    -1234: "engine_errors",
    -600: "corrupt_pages",
}


@pytest.mark.parametrize(("code", "counter"), CODES.items())
def test_codes_of_a_read(store: MooncakeStore, engine: FakeEngine, code, counter) -> None:
    put(store, [1, 2])
    engine.codes[name_of(engine, 1)] = code
    assert get(store, [1, 2]) == [None, page_of(2)]
    assert counted(store) == ({counter: 1} if counter else {})
    assert len(engine.objects) == (1 if code == -600 else 2)  # what lies is removed


@pytest.mark.parametrize("code", [-200, -600, -703, -800, -1234])
def test_codes_of_a_write(store: MooncakeStore, engine: FakeEngine, code) -> None:
    put(store, [1])
    name = name_of(engine, 1)
    store.remove("full", [key_of(1)])
    engine.batch_is_exist = lambda names: [0] * len(names)
    engine.codes[name] = code
    assert put(store, [1, 2]) == [False, True]
    assert counted(store) == ({CODES[code]: 1} if CODES[code] else {})
    engine.codes[name] = -705  # somebody else was quicker: it is there
    assert put(store, [1]) == [True]
    assert store.stats()["num_written_pages"] == 2


def test_objects_that_lie_are_misses_and_removed(store: MooncakeStore, engine: FakeEngine) -> None:
    put(store, range(5))
    good = {n: engine.objects[name_of(engine, n)] for n in range(5)}
    flipped = bytearray(good[1])
    flipped[77] ^= 1
    engine.objects[name_of(engine, 0)] = good[4]  # the page of another key
    engine.objects[name_of(engine, 1)] = bytes(flipped)
    engine.objects[name_of(engine, 2)] = good[2][:-1]
    engine.objects[name_of(engine, 3)] = good[3] + b"x"
    assert get(store, range(5)) == [None] * 4 + [page_of(4)]
    assert store.stats()["num_corrupt_pages"] == 4
    assert put(store, range(5)) == [True] * 5
    assert get(store, range(5)) == [page_of(n) for n in range(5)]


def test_a_master_that_is_gone(client: MooncakeClient, engine: FakeEngine) -> None:
    now = [0.0]
    breaker = CircuitBreaker(num_failures=2, open_s=5.0, clock=lambda: now[0])
    store = make_store(client, breaker=breaker)
    put(store, [1])
    name = name_of(engine, 1)
    engine.codes[name] = -900
    assert get(store, [1]) == [None] and store.exists("full", [key_of(1)]) == [False]
    assert breaker.state is BreakerState.OPEN
    assert "-900" in store.last_error
    num_calls = engine.calls.total()
    assert put(store, [1]) == [False] and get(store, [1]) == [None]
    assert engine.calls.total() == num_calls
    assert store.stats()["num_skipped_calls"] == 2
    now[0] = 5.0
    assert store.exists("full", [key_of(1)]) == [False]  # the probe, and it is still gone
    assert breaker.state is BreakerState.OPEN
    now[0] = 10.0
    del engine.codes[name]
    assert get(store, [1]) == [page_of(1)]
    assert breaker.state is BreakerState.CLOSED
    for code in (-900, -1234):
        engine.codes[f"^{name.split('/')[0]}/"] = code
        with pytest.raises(StorageError, match=f"store at master:1: clear: .*{code}"):
            store.clear()


def test_pages_that_a_dead_node_has_cost_one_timeout_and_no_more(
    store: MooncakeStore, engine: FakeEngine
) -> None:
    numbers = range(10 * CHUNK_PAGES)
    put(store, numbers)
    for name in list(engine.objects)[::5]:
        engine.codes[name] = -800
    slow_down(engine, 0.6)
    engine.calls.clear()
    found = get(store, numbers)
    assert engine.calls[GET] in (2, 3)  # 1 s, and what was under way
    assert found[:CHUNK_PAGES] == [None if n % 5 == 0 else page_of(n) for n in range(CHUNK_PAGES)]
    assert found[3 * CHUNK_PAGES :] == [None] * (7 * CHUNK_PAGES)
    assert store.stats()["is_open"] == 0  # other pages are well


def test_an_engine_that_raises_is_no_secret(store: MooncakeStore, engine: FakeEngine) -> None:
    put(store, [1])
    engine.raising[GET] = RuntimeError("no such device")
    with pytest.raises(RuntimeError, match="no such device"):
        get(store, range(3 * CHUNK_PAGES))
    del engine.raising[GET]
    assert get(store, [1]) == [page_of(1)]


def test_fewer_copies_than_asked_for_are_counted_and_told(
    client: MooncakeClient, engine: FakeEngine, caplog
) -> None:
    store = make_store(client, num_replicas=3)
    engine.num_copies = 3
    assert put(store, range(2)) == [True] * 2
    assert (store.stats()["num_under_replicated_pages"], caplog.text) == (0, "")
    engine.num_copies = 2
    assert put(store, range(5)) == [True] * 5
    assert put(store, range(9)) == [True] * 9
    assert store.stats()["num_under_replicated_pages"] == 7
    assert caplog.text.count("3 pages in fewer than 3 copies") == 1
    assert len(caplog.records) == 1


def test_what_cannot_be_opened(engine: FakeEngine, monkeypatch) -> None:
    engine.setup_code = -600
    with pytest.raises(StorageError, match=r"no Mooncake cluster at m:1 .*code -600"):
        MooncakeClient("m:1")
    for bad in ({"num_lanes": 1}, {"num_moves": 0}, {"call_timeout_s": 0.0}):
        with pytest.raises(StorageError, match="too small"):
            MooncakeClient("m:1", **bad)
    engine.setup_code = 0
    client = MooncakeClient("m:1")
    with pytest.raises(StorageError, match="num_replicas=0"):
        make_store(client, num_replicas=0)
    with pytest.raises(StorageError, match="page_bytes=0"):
        make_store(client, page_bytes=0)
    client.close()
    client.close()
    assert engine.calls["close"] == 1
    monkeypatch.setitem(sys.modules, "mooncake", None)
    with pytest.raises(StorageError, match=r"hicache_ext\[mooncake\]"):
        MooncakeClient("m:1")
