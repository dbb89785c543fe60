"""An engine with Mooncake's calls that does as it is told, and minds memory as RDMA does."""

import ctypes
import random
import re
import sys
import threading
import time
import types
from collections import Counter
from collections.abc import Iterator
from types import SimpleNamespace

from hicache_ext.storage import Limit, MooncakeClient, MooncakeStore

PAGE_BYTES = 4096  # of mooncake_tools.make_store()
PUT, GET = "batch_put_from_multi_buffers", "batch_get_into_multi_buffers"


class FakeEngine:
    """`codes[name]` is the result of an object instead of what its call would be; a call in `held`
    waits for its event first, one in `cancels` cancels that limit, one in `raising` raises it.
    `violations` are what crashes the real engine or fails on RDMA: unregistered memory, and calls
    after close()."""

    def __init__(self) -> None:
        self.objects: dict[str, bytes] = {}
        self.ranges: dict[int, int] = {}
        self.codes: dict[str, int] = {}
        self.held: dict[str, threading.Event] = {}
        self.cancels: dict[str, Limit] = {}
        self.raising: dict[str, Exception] = {}
        self.setup_code = 0
        self.num_copies = 1
        self.violations: list[str] = []
        self.calls: Counter[str] = Counter()
        self.is_closed = False

    def setup(self, *args: object) -> int:
        return self.setup_code

    def close(self) -> int:
        self._enter("close")
        self.is_closed = True
        return 0

    def register_buffer(self, start: int, num_bytes: int) -> int:
        self._enter("register_buffer")
        if any(a < start + num_bytes and start < a + n for a, n in list(self.ranges.items())):
            return -600
        self.ranges[start] = num_bytes
        return 0

    def unregister_buffer(self, start: int) -> int:
        self._enter("unregister_buffer")
        if self.ranges.pop(start, None) is None:
            self.violations.append(f"unregister of {start:#x}")
        return 0

    def batch_is_exist(self, names: list[str]) -> list[int]:
        self._enter("batch_is_exist")
        return [self.codes.get(name, int(name in self.objects)) for name in names]

    def batch_put_from_multi_buffers(self, names, pointers, sizes, config) -> list[int]:
        self._enter("batch_put_from_multi_buffers")
        results = []
        for name, parts, lengths in zip(names, pointers, sizes, strict=True):
            self._check(parts, lengths)
            if self.codes.get(name, 0) >= 0:
                value = b"".join(map(ctypes.string_at, parts, lengths))
                self.objects.setdefault(name, value)
            results.append(self.codes.get(name, 0))
        return results

    def batch_get_into_multi_buffers(self, names, pointers, sizes) -> list[int]:
        self._enter("batch_get_into_multi_buffers")
        results = []
        for name, parts, lengths in zip(names, pointers, sizes, strict=True):
            self._check(parts, lengths)
            value = self.objects.get(name)
            code = self.codes.get(name, -704 if value is None else len(value))
            results.append(-600 if code > sum(lengths) else code)
            if results[-1] >= 0 and value is not None:
                for start, num_bytes in zip(parts, lengths, strict=True):
                    ctypes.memmove(start, value[:num_bytes], len(value[:num_bytes]))
                    value = value[num_bytes:]
        return results

    def batch_remove(self, names: list[str], force: bool) -> list[int]:
        self._enter("batch_remove")
        return [0 if self.objects.pop(name, None) is not None else -704 for name in names]

    def remove_by_regex(self, pattern: str, force: bool) -> int:
        self._enter("remove_by_regex")
        found = [name for name in self.objects if re.search(pattern, name)]
        for name in found:
            del self.objects[name]
        return self.codes.get(pattern, len(found))

    def batch_get_replica_desc(self, names: list[str]) -> dict[str, list[SimpleNamespace]]:
        self._enter("batch_get_replica_desc")
        copy = SimpleNamespace(status="complete", is_memory_replica=lambda: True)
        return {name: [copy] * self.num_copies for name in names if name in self.objects}

    def _enter(self, call: str) -> None:
        if self.is_closed:
            self.violations.append(f"{call} after close")
        self.calls[call] += 1
        if call in self.cancels:
            self.cancels.pop(call).cancel()
        if call in self.held:
            self.held[call].wait()
        if call in self.raising:
            raise self.raising[call]

    def _check(self, parts: list[int], lengths: list[int]) -> None:
        ranges = list(self.ranges.items())
        for start, num_bytes in zip(parts, lengths, strict=True):
            if not any(a <= start and start + num_bytes <= a + n for a, n in ranges):
                self.violations.append(f"{num_bytes} bytes at {start:#x} are not registered")


def install(monkeypatch) -> FakeEngine:
    """As the package `mooncake`, for this test; every client has this engine."""
    engine = FakeEngine()
    package = types.ModuleType("mooncake")
    package.store = SimpleNamespace(
        MooncakeDistributedStore=lambda: engine,
        ReplicateConfig=lambda: SimpleNamespace(replica_num=1),
        ReplicaStatus=SimpleNamespace(COMPLETE="complete"),
    )
    monkeypatch.setitem(sys.modules, "mooncake", package)
    return engine


def client_of(engine: FakeEngine) -> Iterator[MooncakeClient]:
    """For a fixture. At the end every registration was undone, and nothing was violated."""
    client = MooncakeClient("master:1", num_lanes=4, call_timeout_s=1.0)
    yield client
    for gate in engine.held.values():
        gate.set()
    client.close()
    assert engine.violations == []
    assert engine.ranges == {}


def key_of(number: int) -> bytes:
    return random.Random(number).randbytes(32)


def page_of(number: int) -> bytes:
    return random.Random(-number - 1).randbytes(PAGE_BYTES)


def put(store: MooncakeStore, numbers, limit: Limit | None = None) -> list[bool]:
    pages = [memoryview(page_of(n)) for n in numbers]
    return store.write_from("full", [key_of(n) for n in numbers], pages, limit)


def get(store: MooncakeStore, numbers, limit: Limit | None = None) -> list[bytes | None]:
    buffers = [bytearray(b"\xa5" * PAGE_BYTES) for _ in numbers]
    keys = [key_of(n) for n in numbers]
    found = store.read_into("full", keys, [memoryview(b) for b in buffers], limit)
    return [bytes(b) if ok else None for ok, b in zip(found, buffers, strict=True)]


def name_of(engine: FakeEngine, number: int) -> str:
    (name,) = [name for name in engine.objects if name.endswith(key_of(number).hex())]
    return name


def slow_down(engine: FakeEngine, seconds: float) -> None:
    """Every read."""
    get_at_once = engine.batch_get_into_multi_buffers

    def get_slowly(*args: object) -> list[int]:
        time.sleep(seconds)
        return get_at_once(*args)

    engine.batch_get_into_multi_buffers = get_slowly
