"""The plug-in over stores that are late, hold on to memory, come late, or are far away."""

import gc
import random
import shutil
import threading
import time
import weakref
from pathlib import Path
from threading import Thread

import pytest
import sglang_pools as sg
import torch
from mooncake_tools import shared_nodes
from resp_server import RespServer

from hicache_ext.errors import StorageError, StoreTimeout
from hicache_ext.integrations.sglang import lent, stores
from hicache_ext.storage import MemoryStore, PageWrite, SegmentStore

PAGES, PLACES = [1, 5, 2, 9], [7, 0, 3, 4]
KEYS = sg.page_hashes(len(PAGES))


def round_trip(config, layout: str) -> None:
    source, target = sg.mha_pool(layout, num_heads=2), sg.mha_pool(layout, num_heads=2)
    sg.fill(source, 1)
    writer, reader = sg.attach(config, source), sg.attach(config, target)
    assert writer.batch_set_v1(KEYS[:3], sg.slots_of(source, PAGES[:3])) == [True] * 3
    assert writer.batch_set(KEYS[3:], [source.get_data_page(PAGES[3] * sg.PAGE_SIZE)]) is True
    assert reader.batch_exists([*KEYS, "0" * 64]) == len(KEYS)
    assert reader.batch_get_v1(KEYS, sg.slots_of(target, PLACES)) == [True] * len(KEYS)
    for page, place in zip(PAGES, PLACES, strict=True):
        assert sg.page_bytes(target, place) == sg.page_bytes(source, page)
    dummy = target.get_dummy_flat_data_page()
    assert reader.get(KEYS[0], dummy) is dummy
    assert sg.same_bytes(dummy, source.get_data_page(PAGES[0] * sg.PAGE_SIZE))
    assert writer.clear() is True and reader.batch_exists(KEYS) == 0
    writer.close()
    reader.close()


@pytest.mark.parametrize("layout", ["page_first", "layer_first"])
def test_pages_in_redis(layout: str) -> None:
    with RespServer() as server:
        server.script = server.answer
        url = f"redis://127.0.0.1:{server.address.port}"
        config = sg.config_of(Path("unused"), extra={"store": {"kind": "redis", "server": url}})
        del config.extra_config["root"]
        source = sg.mha_pool(layout)
        sg.fill(source, 1)
        backend = sg.attach(config, source)
        assert all(backend.batch_set_v1(KEYS, sg.slots_of(source, PAGES)))
        wanted = [sg.page_bytes(source, page) for page in PAGES]
        source.kv_buffer.zero_()
        assert all(backend.batch_get_v1(KEYS, sg.slots_of(source, PLACES)))
        assert [sg.page_bytes(source, place) for place in PLACES] == wanted
        server.hang_up()
        server.script = lambda words: None
        assert backend.batch_exists(KEYS) == 0, "a server that is gone is a miss"
        assert backend.batch_get_v1(KEYS, sg.slots_of(source, PLACES)) == [False] * len(KEYS)
        backend.close()


@pytest.mark.parametrize("layout", ["page_first", "layer_first"])
def test_pages_in_a_mooncake_cluster(layout: str) -> None:
    setting = {"kind": "mooncake", "master": shared_nodes().master}
    config = sg.config_of(Path("unused"), extra={"store": setting, "model": f"m-{layout}"})
    del config.extra_config["root"]
    round_trip(config, layout)


def test_pages_in_a_near_and_a_far_store(tmp_path: Path) -> None:
    """Of two servers with a folder each and one that both reach."""
    pool = sg.mha_pool("page_first", num_heads=2)
    sg.fill(pool, 1)
    wanted = [sg.page_bytes(pool, page) for page in PAGES]
    backends = []
    for near in ("near0", "near1", "near1"):
        parts = [{"kind": "local", "root": str(tmp_path / name)} for name in (near, "far")]
        config = sg.config_of(tmp_path, extra={"store": {"kind": "fallback", "stores": parts}})
        del config.extra_config["root"]
        backends.append(sg.attach(config, pool))
    assert all(backends[0].batch_set_v1(KEYS, sg.slots_of(pool, PAGES)))
    pool.kv_buffer.zero_()
    assert all(backends[1].batch_get_v1(KEYS, sg.slots_of(pool, PLACES)))
    assert [sg.page_bytes(pool, place) for place in PLACES] == wanted
    backends[1].close()  # it has been promoted
    shutil.rmtree(tmp_path / "far")
    assert all(backends[2].batch_get_v1(KEYS, sg.slots_of(pool, PLACES)))
    for backend in backends:
        backend.close()
    holding = {"kind": "fallback", "stores": [parts[0], {"kind": "mooncake", "master": "m"}]}
    assert stores.holds_buffers(holding) and not stores.holds_buffers(parts[0])


def test_no_call_takes_longer_than_it_may(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pool = sg.mha_pool("page_first")
    backend = sg.attach(sg.config_of(tmp_path, extra={"timeout_s": 0.05}), pool)

    def late(self, batches, limit):
        limit.sleep(60.0)
        assert limit.is_over
        return [[False] * len(batch.keys) for batch in batches]

    def late_write(*args):
        return [[PageWrite.REFUSED] * len(told) for told in late(*args)]

    for name, call in {"exists": late, "read": late, "write": late_write}.items():
        monkeypatch.setattr(SegmentStore, f"{name}_many", call)
    start_s = time.monotonic()
    assert backend.batch_exists(KEYS) == 0
    assert backend.batch_get_v1(KEYS, sg.slots_of(pool, PAGES)) == [False] * len(KEYS)
    assert backend.batch_set_v1(KEYS, sg.slots_of(pool, PAGES)) == [False] * len(KEYS)
    assert backend.batch_get(KEYS, [pool.get_data_page(0)] * len(KEYS)) == [None] * len(KEYS)
    assert time.monotonic() - start_s < 50.0
    assert backend.stats()["num_failed_calls"] == 0, "each store call had the limit"
    backend.close()


class HoldingStore(MemoryStore):
    """An engine that answers late and writes into the page it was lent when it is let go."""

    capabilities = MemoryStore.capabilities

    def __init__(self, page_bytes: dict) -> None:
        super().__init__(page_bytes)
        self.go_on, self.is_done = threading.Event(), threading.Event()

    def write_from(self, pool, keys, pages, limit=None):
        self.held = pages
        raise StoreTimeout("held", self.is_done.wait)

    def read_into(self, pool, keys, pages, limit=None):
        def write() -> None:
            self.go_on.wait(30)
            for page in pages:
                page.cast("B")[:] = b"\xee" * page.nbytes
            self.is_done.set()

        threading.Thread(target=write, daemon=True).start()
        raise StoreTimeout("held", self.is_done.wait)


def attach_holding(kind: str, pool, monkeypatch: pytest.MonkeyPatch) -> tuple:
    made = []

    def make(namespaces, sizes, *, master: str):
        made.append(HoldingStore(sizes))
        return made[-1]

    monkeypatch.setitem(stores._KINDS, kind, make)
    config = sg.config_of(Path("unused"), extra={"store": {"kind": kind, "master": "m"}})
    del config.extra_config["root"]
    return sg.attach(config, pool), made[0]


def test_sglang_gets_a_page_back_when_the_engine_is_done_with_it(monkeypatch) -> None:
    """A store that was to work on SGLang's own memory: the call ends with the engine, not before,
    or the engine would write into another request's page."""
    pool = sg.mha_pool("page_first")
    backend, store = attach_holding("local", pool, monkeypatch)
    results = []
    slots = sg.slots_of(pool, PAGES)
    thread = threading.Thread(target=lambda: results.append(backend.batch_get_v1(KEYS, slots)))
    thread.start()
    thread.join(timeout=0.2)
    assert thread.is_alive() and not results
    store.go_on.set()
    thread.join(timeout=30)
    assert results == [[False] * len(KEYS)]


@pytest.mark.parametrize("layout", ["page_first", "layer_first"])
def test_an_engine_that_may_hold_pages_never_gets_sglangs(monkeypatch, layout: str) -> None:
    pool = sg.mha_pool(layout)
    backend, store = attach_holding("mooncake", pool, monkeypatch)
    sg.fill(pool, 1)
    before = sg.contents(pool)
    assert backend.batch_get_v1(KEYS, sg.slots_of(pool, PAGES)) == [False] * len(KEYS)
    store.go_on.set()
    assert store.is_done.wait(30)
    assert all(torch.equal(a, b) for a, b in zip(before, sg.contents(pool), strict=True))
    with pytest.raises(StorageError, match="'kv'"):  # SGLang has no flat pages of it
        attach_holding("mooncake", sg.mha_pool("page_first", v_head_dim=8), monkeypatch)


def test_what_such_an_engine_has_yet_to_send_does_not_change(monkeypatch) -> None:
    """A flat page of this pool is a view of it, and SGLang writes over it after the call."""
    pool = sg.mla_pool("page_first")
    backend, store = attach_holding("mooncake", pool, monkeypatch)
    for write in (
        lambda: backend.batch_set_v1(KEYS[:1], sg.slots_of(pool, PAGES[:1])) == [False],
        lambda: backend.batch_set(KEYS[:1], [pool.get_data_page(PAGES[0] * sg.PAGE_SIZE)]) is False,
    ):
        sg.fill(pool, 1)
        wanted = sg.page_bytes(pool, PAGES[0])
        assert write()
        pool.kv_buffer.zero_()
        assert bytes(store.held[0]) == wanted
    store.is_done.set()


def test_what_is_lent_lives_until_it_is_given_back() -> None:
    is_free = threading.Event()
    memory = torch.zeros(4).numpy()
    alive = weakref.ref(memory)
    with pytest.raises(StorageError, match="held") as caught, lent.lent(memory):
        raise StoreTimeout("held", lambda timeout_s: is_free.wait(timeout_s))
    assert not isinstance(caught.value, StoreTimeout)
    del memory, caught
    gc.collect()
    assert alive() is not None
    is_free.set()
    for thread in threading.enumerate():
        if thread.name == "hicache-lent":
            thread.join(timeout=30)
    gc.collect()
    assert alive() is None


def test_pools_that_come_late_get_a_store_too(tmp_path: Path) -> None:
    """The pool of a draft model, which SGLang registers after it has attached."""
    pool, draft = sg.mha_pool("page_first"), sg.mha_pool("page_first", num_heads=2)
    backend = sg.attach(sg.config_of(tmp_path), pool)
    sg.fill(draft, 1)
    slots = sg.slots_of(draft, PAGES)
    written = sg.PoolTransfer(name=sg.PoolName.DRAFT, keys=KEYS, host_indices=slots)
    assert backend.batch_set_v2([written]) == {"draft": [False] * len(KEYS)}
    for _ in range(2):  # twice is no harm
        backend.register_mem_host_pool_v2(draft, sg.PoolName.DRAFT)
    assert len(backend._pools._stores) == 2
    assert backend.batch_set_v2([written]) == {"draft": [True] * len(KEYS)}
    other = sg.mha_pool("page_first", num_heads=2)
    backend.register_mem_host_pool_v2(other, sg.PoolName.DRAFT)
    assert backend.batch_get_v2([written]) == {"draft": [True] * len(KEYS)}
    assert [sg.page_bytes(other, p) for p in PAGES] == [sg.page_bytes(draft, p) for p in PAGES]
    backend.close()
    assert backend.batch_exists(KEYS) == 0


def test_a_store_cannot_open_before_the_anchor_is_known(tmp_path: Path) -> None:
    backend = sg.StorageBackendFactory.create_backend("dynamic", sg.config_of(tmp_path), None)
    with pytest.raises(StorageError, match="'kv'"):
        backend.on_host_pools_registered()
    assert backend.batch_exists(KEYS) == 0 and backend.stats() == {"num_failed_calls": 0}
    backend.close()


def test_threads_of_sglang_at_the_same_time(tmp_path: Path) -> None:
    """Queries, reads, writes, stats and clear; every page that arrives is exact."""
    keys = sg.page_hashes(16)
    source = sg.mha_pool("page_first", num_heads=1)
    sg.fill(source, 1)
    wanted = {key: sg.page_bytes(source, page) for page, key in enumerate(keys)}
    backend = sg.attach(sg.config_of(tmp_path, enable_storage_metrics=True), source)
    failures: list = []
    end_s = time.monotonic() + 0.6

    def loop(work, seed: int) -> None:
        rng = random.Random(seed)
        try:
            while time.monotonic() < end_s or not backend.stats()["num_read_pages"]:
                work(rng, [i for i in range(16) if rng.random() < 0.5])
        except Exception as error:
            failures.append((seed, error))

    def write(rng, some) -> None:
        if not backend.batch_set([keys[i] for i in some], [flat[i] for i in some]):
            failures.append(("write", some))

    def read(rng, some) -> None:
        targets = [torch.zeros_like(flat[0]) for _ in some]
        found = backend.batch_get([keys[i] for i in some], targets)
        for i, page in zip(some, found, strict=True):
            if page is not None and bytes(page.view(torch.uint8).numpy()) != wanted[keys[i]]:
                failures.append(("wrong bytes", i))

    def query(rng, some) -> None:
        told = backend.batch_exists_v2(keys, [])
        if told.restorable_prefix_pages != list(range(1, told.kv_hit_pages + 1)):
            failures.append(("query", told))

    def stats(rng, some) -> None:
        backend.get_stats()
        if rng.random() < 0.1:
            backend.clear()
        time.sleep(0.005)

    flat = [source.get_data_page(i * sg.PAGE_SIZE) for i in range(16)]
    jobs = (write, read, read, query, stats)
    threads = [Thread(target=loop, args=(job, i), daemon=True) for i, job in enumerate(jobs)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    assert not failures
    assert backend.stats()["num_failed_calls"] == 0 and backend.stats()["num_read_pages"] > 0
    backend.close()
