"""HostMemory: the mapping, its views, and pinning through a recording table instead of CUDA."""

import ctypes
import os
import subprocess
import sys
import textwrap

import numpy as np
import pytest

from hicache_ext import _C
from hicache_ext.errors import CapacityError, CudaError, HiCacheError, LifetimeError

KIB, MIB = 1024, 1 << 20


class FakeCuda:
    """cudaHostRegister, cudaHostUnregister and cudaGetLastError that record, check and can fail."""

    def __init__(self, fail_pins: dict[int, int] | None = None, fail_unpin: bool = False) -> None:
        self.calls: list[tuple[str, int, int]] = []
        self.registered: dict[int, int] = {}
        self.last_error = 0
        self.num_pins = 0
        self.fail_pins = fail_pins or {}  # number of the call -> error code
        self.fail_unpin = fail_unpin
        pin_type = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_size_t)
        unpin_type = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p)
        clear_type = ctypes.CFUNCTYPE(ctypes.c_int)
        self._callbacks = (pin_type(self.pin), unpin_type(self.unpin), clear_type(self.clear))
        self.api = _C.PinApi(*(ctypes.cast(f, ctypes.c_void_p).value for f in self._callbacks))

    def pin(self, address: int, num_bytes: int) -> int:
        self.calls.append(("pin", address, num_bytes))
        self.num_pins += 1
        code = self.fail_pins.get(self.num_pins - 1, 0)
        if any(a < address + num_bytes and address < a + n for a, n in self.registered.items()):
            code = 712  # cudaErrorHostMemoryAlreadyRegistered
        if code == 0:
            self.registered[address] = num_bytes
        self.last_error = code or self.last_error
        return code

    def unpin(self, address: int) -> int:
        self.calls.append(("unpin", address, 0))
        code = 0 if address in self.registered and not self.fail_unpin else 713
        self.registered.pop(address, None)
        self.last_error = code or self.last_error
        return code

    def clear(self) -> int:
        self.calls.append(("clear", 0, 0))
        code, self.last_error = self.last_error, 0
        return code


def lengths(fake: FakeCuda) -> list[int]:
    return [num_bytes for name, _, num_bytes in fake.calls if name == "pin"]


def names(fake: FakeCuda) -> list[str]:
    return [name for name, _, _ in fake.calls]


# --- mapping and views ---------------------------------------------------------------------------


@pytest.mark.parametrize("num_bytes", [1, 4095, 4096, 4097, 2 * MIB - 1, 2 * MIB, 5 * MIB + 3])
@pytest.mark.parametrize("num_threads", [0, 1, 3])
def test_mapping_is_aligned_zero_and_writable_to_its_end(num_bytes, num_threads) -> None:
    memory = _C.HostMemory(num_bytes, num_threads=num_threads)
    assert memory.address % (2 * MIB if num_bytes >= 2 * MIB else 4096) == 0
    assert memory.num_bytes == num_bytes
    assert memory.mapped_bytes == -(-num_bytes // 4096) * 4096
    array = np.frombuffer(memory, dtype=np.uint8)
    assert array.nbytes == num_bytes and array.flags.writeable and not array.any()
    assert array.ctypes.data == memory.address  # no copy
    array[:] = 7
    assert bytes(memoryview(memory)[-1:]) == b"\x07"
    del array
    memory.close()


def test_everything_is_touched_before_the_constructor_returns() -> None:
    def resident_kib() -> int:
        with open("/proc/self/smaps_rollup") as rollup:
            return next(int(line.split()[1]) for line in rollup if line.startswith("Anonymous:"))

    before = resident_kib()
    memory = _C.HostMemory(96 * MIB, num_threads=2)
    assert resident_kib() - before >= 90 * KIB
    memory.close()
    assert resident_kib() - before < 10 * KIB


def test_close_refuses_while_a_view_lives_and_counts_them() -> None:
    memory = _C.HostMemory(8192)
    view, array = memoryview(memory), np.frombuffer(memory, dtype=np.uint8)
    part = array[100:200]
    del array
    with pytest.raises(LifetimeError, match="2 views"):
        memory.close()
    part[:] = 1  # nothing happened to it
    view.release()
    with pytest.raises(LifetimeError, match="1 views"):
        memory.close()
    del part
    memory.close()
    memory.close()  # a second close is nothing
    assert memory.is_closed


def test_use_after_close_is_an_error() -> None:
    memory = _C.HostMemory(8192)
    memory.close()
    with pytest.raises(LifetimeError, match="closed"):
        memoryview(memory)
    with pytest.raises(LifetimeError, match="closed"):
        memory.pin(FakeCuda().api, 4096)


def test_a_view_keeps_the_memory_of_a_dropped_owner() -> None:
    memory = _C.HostMemory(3 * MIB)
    array = np.frombuffer(memory, dtype=np.uint8)
    del memory
    array[:] = 5
    assert array.sum(dtype=np.int64) == 5 * 3 * MIB


@pytest.mark.parametrize("num_bytes", [0, 1 << 63, (1 << 64) - 1, 1 << 62])
def test_impossible_size_is_a_capacity_error(num_bytes) -> None:
    with pytest.raises(CapacityError, match=str(num_bytes)):
        _C.HostMemory(num_bytes)


# --- pinning -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("object_bytes", "max_chunk_bytes", "expected"),
    [
        (4096, 1 * MIB, 1 * MIB),
        (12 * KIB, 1 * MIB, 85 * 12 * KIB),  # the largest multiple below
        (37440, 1 * MIB, 37440 * 64),  # objects and 4 KiB pages meet only here
        (3 * MIB, 1 * MIB, 3 * MIB),  # never less than one object
        (1, 10000, 8192),
        (0, 8192, 8192),
    ],
)
def test_chunk_ends_on_object_and_page_boundary(object_bytes, max_chunk_bytes, expected) -> None:
    chunk_bytes = _C.pin_chunk_bytes(object_bytes, max_chunk_bytes)
    assert chunk_bytes == expected
    assert chunk_bytes % 4096 == 0 and (object_bytes == 0 or chunk_bytes % object_bytes == 0)


def test_default_chunk_stays_below_what_drivers_refuse() -> None:
    assert _C.MAX_PIN_CHUNK_BYTES < 512 << 30
    assert _C.pin_chunk_bytes(28 * KIB, _C.MAX_PIN_CHUNK_BYTES) <= 64 << 30


def test_pin_covers_everything_once_and_unpin_is_exact() -> None:
    object_bytes = 12 * KIB
    memory, fake = _C.HostMemory(100 * object_bytes - 4096 - 5), FakeCuda()
    memory.pin(fake.api, object_bytes, max_chunk_bytes=256 * KIB)
    assert memory.is_pinned and names(fake) == ["pin"] * 5
    assert lengths(fake) == [21 * object_bytes] * 4 + [16 * object_bytes - 4096]
    at = memory.address
    for address, num_bytes in memory.regions:
        assert address == at and (address - memory.address) % object_bytes == 0
        at += num_bytes
    assert at == memory.address + memory.mapped_bytes
    regions, fake.calls = memory.regions, []
    memory.unpin()
    assert fake.calls == [("unpin", address, 0) for address, _ in reversed(regions)]
    assert not memory.is_pinned and memory.regions == [] and not fake.registered
    memory.close()
    assert len(fake.calls) == len(regions)  # nothing is unpinned twice


@pytest.mark.parametrize("failing", [0, 1, 3])
def test_a_failing_chunk_rolls_back_and_clears_the_error(failing) -> None:
    memory, fake = _C.HostMemory(4 * 64 * KIB), FakeCuda({failing: 2})
    with pytest.raises(CudaError, match=r"262144 bytes.*65536 bytes: code 2"):
        memory.pin(fake.api, 4096, max_chunk_bytes=64 * KIB, num_halvings=0)
    assert names(fake) == ["pin"] * (failing + 1) + ["clear"] + ["unpin"] * failing
    assert not fake.registered and fake.last_error == 0
    assert not memory.is_pinned and memory.regions == []
    np.frombuffer(memory, dtype=np.uint8)[:] = 1  # still usable, unpinned
    memory.pin(FakeCuda().api, 4096)  # and can be pinned later
    memory.close()


def test_after_a_failure_smaller_chunks_are_tried() -> None:
    memory, fake = _C.HostMemory(4 * 64 * KIB), FakeCuda({1: 2, 2: 2})
    memory.pin(fake.api, 4096, max_chunk_bytes=128 * KIB, num_halvings=2)
    assert lengths(fake) == [128 * KIB, 128 * KIB, 64 * KIB] + [32 * KIB] * 8
    assert len(fake.registered) == len(memory.regions) == 8 and fake.last_error == 0
    memory.close()
    assert not fake.registered


def test_halving_stops_at_one_object() -> None:
    memory, fake = _C.HostMemory(64 * KIB), FakeCuda(dict.fromkeys(range(99), 2))
    with pytest.raises(CudaError, match="chunks of 16384"):
        memory.pin(fake.api, 16 * KIB, max_chunk_bytes=32 * KIB, num_halvings=50)
    assert lengths(fake) == [32 * KIB, 16 * KIB]


def test_pinning_twice_is_refused_and_changes_nothing() -> None:
    memory, fake = _C.HostMemory(8192), FakeCuda()
    memory.pin(fake.api, 4096)
    with pytest.raises(CudaError, match="already pinned in 1"):
        memory.pin(fake.api, 4096)
    assert names(fake) == ["pin"]
    memory.close()


def test_close_and_drop_unpin_before_they_unmap() -> None:
    for drop in (True, False):
        memory, fake = _C.HostMemory(8192), FakeCuda()
        memory.pin(fake.api, 4096, max_chunk_bytes=4096)
        if drop:
            del memory
        else:
            memory.close()
        assert names(fake) == ["pin", "pin", "unpin", "unpin"] and not fake.registered


def test_a_failing_unpin_is_told_after_all_were_tried() -> None:
    memory, fake = _C.HostMemory(8192), FakeCuda(fail_unpin=True)
    memory.pin(fake.api, 4096, max_chunk_bytes=4096)
    with pytest.raises(CudaError, match=r"2 regions.*code 713"):
        memory.close()
    assert names(fake)[2:] == ["unpin", "clear", "unpin", "clear"]
    assert fake.last_error == 0 and memory.is_closed
    memory.close()


def test_without_a_table_pin_is_a_typed_error() -> None:
    with pytest.raises(CudaError, match="PinApi"):
        _C.HostMemory(4096).pin(None, 4096)
    with pytest.raises(CudaError, match="null"):
        _C.HostMemory(4096).pin(_C.PinApi(0, 0, 0), 4096)


def test_without_a_device_there_is_no_cuda_table() -> None:
    torch = pytest.importorskip("torch")
    has_device = bool(_C.with_cuda) and torch.cuda.is_available()
    assert (_C.cuda_pin_api() is not None) == has_device


# --- fork ----------------------------------------------------------------------------------------

FORK = """
import os, sys
import numpy as np
sys.path.insert(0, {tests!r})
from hicache_ext import _C
from test_host_memory import FakeCuda
memory, fake = _C.HostMemory(4 << 20), FakeCuda()
array = np.frombuffer(memory, dtype=np.uint8)
array[:] = 9
if {pinned}:
    memory.pin(fake.api, 4096)
child = os.fork()
if child == 0:
    if {pinned}:
        mapped = any(line.startswith(hex(memory.address)[2:]) for line in open("/proc/self/maps"))
        ok = not mapped
    else:
        ok = bool((array == 9).all())
    del array
    memory.close()
    os._exit(0 if ok and not any(name == "unpin" for name, _, _ in fake.calls) else 1)
assert os.waitpid(child, 0)[1] == 0
assert (array == 9).all()
del array
memory.close()
assert not fake.registered
"""


@pytest.mark.parametrize("pinned", [False, True])
def test_a_forked_child_sees_unpinned_memory_and_never_unpins(pinned: bool) -> None:
    script = textwrap.dedent(FORK).format(tests=os.path.dirname(__file__), pinned=pinned)
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_errors_are_of_the_family() -> None:
    assert issubclass(LifetimeError, HiCacheError) and issubclass(LifetimeError, BufferError)
