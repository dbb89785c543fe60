"""Registrations of host memory: chunks, rollback, exact unregister, and what the process knows."""

import fcntl
import os
import resource
from pathlib import Path

import numpy as np
import pytest
from fake_cuda import FakeCuda

from hicache_ext import _C, host_buffer
from hicache_ext.errors import CudaError
from hicache_ext.host_limits import HostLimit
from hicache_ext.pool import HostBuffer

KIB, MIB, GIB = 1 << 10, 1 << 20, 1 << 30


def lengths(fake: FakeCuda) -> list[int]:
    return [num_bytes for name, _, num_bytes in fake.calls if name == "pin"]


def names(fake: FakeCuda) -> list[str]:
    return [name for name, _, _ in fake.calls]


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


# --- of a HostBuffer ------------------------------------------------------------------------------


def is_mapped(address: int) -> bool:
    lines = Path("/proc/self/maps").read_text().splitlines()
    ranges = (line.split()[0].split("-") for line in lines)
    return any(int(first, 16) <= address < int(last, 16) for first, last in ranges)


@pytest.mark.parametrize("way", ["close", "drop"])
def test_what_is_unregistered_is_still_mapped(way: str) -> None:
    class Watching(FakeCuda):
        def unpin(self, address: int) -> int:
            seen.append(is_mapped(address))
            return super().unpin(address)

    seen: list[bool] = []
    fake = Watching()
    buffer = HostBuffer(4 * MIB, pin_api=fake.api)
    address = buffer.address
    if way == "close":
        buffer.close()
    del buffer
    assert seen == [True] and not is_mapped(address)


def test_registrations_are_known_process_wide_and_cut_to_the_range() -> None:
    fake = FakeCuda()
    buffer = HostBuffer(4 * 64 * KIB, pin_api=fake.api, object_bytes=64 * KIB)
    at, whole = buffer.address, buffer.num_bytes
    assert buffer.regions == [(at, whole)] == _C.pinned_regions_in(at, whole)
    memory, other = buffer._memory, HostBuffer(4096, pin_api=fake.api)
    memory.unpin()
    assert _C.pinned_regions_in(at, whole) == []
    memory.pin(fake.api, 64 * KIB, max_chunk_bytes=64 * KIB)
    quarters = [(at + i * 64 * KIB, 64 * KIB) for i in range(4)]
    assert buffer.regions == _C.pinned_regions_in(at, whole) == quarters
    assert _C.pinned_regions_in(at + 100, 64 * KIB) == [(at + 100, 65436), (at + 65536, 100)]
    assert _C.pinned_regions_in(at + 64 * KIB, 1) == [(at + 64 * KIB, 1)]
    assert _C.pinned_regions_in(at + 64 * KIB, 0) == []
    assert _C.pinned_regions_in(other.address, 9) == [(other.address, 9)]
    for closing in (buffer, other):
        closing.close()
    assert _C.pinned_regions_in(0, 1 << 62) == [] and not fake.registered


@pytest.mark.parametrize("failing", [0, 2])
def test_a_rolled_back_registration_is_forgotten(failing: int) -> None:
    memory, fake = _C.HostMemory(4 * 64 * KIB), FakeCuda({failing: 2})
    with pytest.raises(CudaError):
        memory.pin(fake.api, 4096, max_chunk_bytes=64 * KIB, num_halvings=0)
    assert _C.pinned_regions_in(memory.address, memory.num_bytes) == []


def test_a_registration_that_fails_says_what_room_there_is(monkeypatch) -> None:
    """And it has given the memory back, although the traceback still holds the buffer."""
    fake = FakeCuda(dict.fromkeys(range(9), 2))
    room = [HostLimit("RLIMIT_MEMLOCK", 5 * MIB, 2 * MIB)]
    monkeypatch.setattr(host_buffer, "locked_limits", lambda: room)
    wanted = rf"'l2': cannot pin 8192 bytes.*code 2.*MemAvailable.* \d+, RLIMIT_MEMLOCK {3 * MIB}"
    with pytest.raises(CudaError, match=wanted) as raised:
        HostBuffer(8192, name="'l2'", pin_api=fake.api)
    assert not fake.registered and raised.tb is not None
    assert fake.calls[0][0] == "pin" and not is_mapped(fake.calls[0][1])


@pytest.mark.parametrize("object_bytes", [8 * MIB + 1, 2**52 + 1, 2**62 - 1])
def test_an_object_larger_than_the_memory_is_not_cut(object_bytes: int) -> None:
    memory, fake = _C.HostMemory(8 * MIB), FakeCuda()  # 4 KiB * (2**52 + 1) wraps around to 4 KiB
    memory.pin(fake.api, object_bytes, max_chunk_bytes=MIB)
    assert memory.regions == [(memory.address, 8 * MIB)]
    memory.close()


def test_300_gigabytes_are_registered_in_chunks_below_64_gib() -> None:
    """A file of holes: attaching touches nothing, so this costs address space only."""
    object_bytes, num_bytes = 37 * 4096, 300 * GIB
    fd = os.memfd_create("sparse", os.MFD_ALLOW_SEALING)
    os.ftruncate(fd, num_bytes)
    fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK)
    fake = FakeCuda()
    limit = resource.getrlimit(resource.RLIMIT_AS)[0]
    if limit != resource.RLIM_INFINITY:
        pytest.skip(f"RLIMIT_AS is {limit}")
    buffer = HostBuffer.attach(fd, pin_api=fake.api, object_bytes=object_bytes)
    os.close(fd)
    assert buffer.num_bytes == num_bytes and len(buffer.regions) == 5
    at = buffer.address
    for address, region_bytes in buffer.regions:
        assert address == at and region_bytes <= 64 * GIB
        assert (address - buffer.address) % object_bytes == 0
        at += region_bytes
    assert at == buffer.address + num_bytes
    assert [call[1] for call in fake.calls] == [address for address, _ in buffer.regions]
    buffer.close()
    assert not fake.registered
