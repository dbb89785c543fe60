"""Shared host memory: who can attach it, how long it lives, and what a fork does to it."""

import fcntl
import gc
import os
import signal
import socket
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from fake_cuda import FakeCuda

from hicache_ext import _C, host_buffer
from hicache_ext.errors import CapacityError, LayoutError, LifetimeError
from hicache_ext.host_limits import HostLimit
from hicache_ext.pool import HostBuffer, PinMode, Sharing

NUM_BYTES = 10_000  # three pages, the last one not full


def shared(**options) -> HostBuffer:
    return HostBuffer(NUM_BYTES, name="'shm'", sharing=Sharing.SHARED, **options)


def num_open_files() -> int:
    gc.collect()  # those of buffers that a traceback of an earlier test has kept
    return len(os.listdir("/proc/self/fd"))


def in_child(check: Callable[[], bool]) -> None:
    """Forks; the child must find that `check` holds."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            status = 0 if check() else 2
        finally:
            os._exit(status)
    assert os.waitpid(child, 0)[1] == 0


# --- another process gets it ---------------------------------------------------------------------

OTHER = """
import os, socket, sys
from hicache_ext.host_buffer import HostBuffer
how, number, num_bytes = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
if how == "socket":
    with socket.socket(fileno=number) as wire:
        fd = socket.recv_fds(wire, 1, 1)[1][0]
else:
    fd = os.open(f"/proc/{os.getppid()}/fd/{number}", os.O_RDWR)
buffer = HostBuffer.attach(fd, num_bytes=num_bytes)
os.close(fd)  # it keeps its own
assert buffer.num_bytes == num_bytes and buffer.array[0] == 11, buffer.array[0]
buffer.array[-1] = 22
buffer.close()
"""


@pytest.mark.parametrize("how", ["socket", "proc"])
def test_a_process_that_we_started_attaches_it(how: str) -> None:
    buffer = shared()
    buffer.array[0] = 11
    ours, theirs = socket.socketpair()
    number = theirs.fileno() if how == "socket" else buffer.fd
    command = [sys.executable, "-c", OTHER, how, str(number), str(NUM_BYTES)]
    with ours, theirs:
        socket.send_fds(ours, [b"x"], [buffer.fd])
        done = subprocess.run(command, pass_fds=[theirs.fileno()], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert buffer.array[-1] == 22
    buffer.close()


def test_it_outlives_its_creator_and_then_goes() -> None:
    """SIGKILL runs no cleanup; the file has no name, so that there is nothing to clean up."""
    ours, theirs = socket.socketpair()
    child = os.fork()
    if child == 0:
        buffer = shared()
        buffer.array[:] = 33
        socket.send_fds(theirs, [b"x"], [buffer.fd])
        signal.pause()
    fd = socket.recv_fds(ours, 1, 1)[1][0]
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    buffer = HostBuffer.attach(fd, num_bytes=NUM_BYTES)
    os.close(fd)
    assert (buffer.array == 33).all()
    mapping = f"{buffer.address:x}-"
    (line,) = (x for x in Path("/proc/self/maps").read_text().splitlines() if mapping in x)
    assert line.endswith("/memfd:hicache (deleted)")
    buffer.close()
    assert "/memfd:hicache" not in Path("/proc/self/maps").read_text()
    ours.close()
    theirs.close()


def test_both_see_both_and_the_size_defaults_to_the_file() -> None:
    num_open = num_open_files()
    first = shared()
    second = HostBuffer.attach(first.fd)
    assert (second.num_bytes, second.address % 4096) == (12288, 0)
    assert second.fd != first.fd and second.address != first.address
    first.array[7], second.array[8] = 1, 2
    assert (second.array[7], first.array[8]) == (1, 2)
    first.close()
    assert second.array[7] == 1  # it does not need the first one
    second.close()
    assert num_open_files() == num_open


def test_both_register_it_themselves() -> None:
    fake = FakeCuda()
    first = shared(pin_api=fake.api)
    second = HostBuffer.attach(first.fd, pin_api=fake.api)
    assert len(fake.registered) == 2 and first.regions != second.regions
    first.close()
    assert list(fake.registered) == [second.address]
    second.close()


# --- who may, and what is no shared memory -------------------------------------------------------


def test_the_file_is_this_users_alone_and_closed_at_exec() -> None:
    buffer = shared()
    assert stat.S_IMODE(os.fstat(buffer.fd).st_mode) == 0o600
    assert fcntl.fcntl(buffer.fd, fcntl.F_GETFD) & fcntl.FD_CLOEXEC
    assert fcntl.fcntl(HostBuffer.attach(buffer.fd).fd, fcntl.F_GETFD) & fcntl.FD_CLOEXEC


def test_nobody_resizes_it_while_it_is_mapped() -> None:
    """Bytes beyond the end of a mapped file are a SIGBUS: the kernel refuses to take them away."""
    buffer = shared()
    for num_bytes in (0, 4096, 1 << 20):
        with pytest.raises(PermissionError):
            os.ftruncate(buffer.fd, num_bytes)
    with pytest.raises(PermissionError):  # and the seals cannot be changed
        fcntl.fcntl(buffer.fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_WRITE)


def test_what_can_shrink_is_not_attached() -> None:
    fd = os.memfd_create("loose", os.MFD_ALLOW_SEALING)
    os.ftruncate(fd, 8192)
    with pytest.raises(LifetimeError, match=f"fd={fd} of 8192 bytes is not sealed"):
        HostBuffer.attach(fd)
    fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK)
    assert HostBuffer.attach(fd).num_bytes == 8192
    os.close(fd)


def test_what_is_no_memory_file_is_refused_by_its_number(tmp_path: Path) -> None:
    with open(tmp_path / "file", "wb+") as file:
        file.truncate(8192)
        with pytest.raises(LayoutError, match=f"fd={file.fileno()} is no memory file"):
            HostBuffer.attach(file.fileno())
    for wrong in (-1, 10**6, "3", 1.0):
        with pytest.raises(LayoutError, match=f"fd={wrong!r}"):
            HostBuffer.attach(wrong)
    with pytest.raises(LayoutError, match="'l2': private"):
        _ = HostBuffer(4096, name="'l2'").fd


@pytest.mark.parametrize("num_bytes", [1, 8192, 12289, 1 << 40])
def test_another_size_is_refused_with_both(num_bytes: int) -> None:
    buffer = shared()
    with pytest.raises((LayoutError, CapacityError), match=str(num_bytes)) as raised:
        HostBuffer.attach(buffer.fd, num_bytes=num_bytes)
    assert "12288" in str(raised.value)
    with pytest.raises(CapacityError, match="num_bytes=0"):
        HostBuffer.attach(buffer.fd, num_bytes=0)


def test_a_descriptor_that_cannot_write_is_refused() -> None:
    buffer = shared()
    fd = os.open(f"/proc/self/fd/{buffer.fd}", os.O_RDONLY)
    with pytest.raises(LayoutError, match=r"12288 bytes.*Permission denied"):
        HostBuffer.attach(fd)
    os.close(fd)


def test_a_failed_attach_leaves_no_descriptor_behind() -> None:
    buffer = shared()
    fd = os.open(f"/proc/self/fd/{buffer.fd}", os.O_RDONLY)
    before = num_open_files()
    for _ in range(5):
        with pytest.raises(LayoutError):
            HostBuffer.attach(fd)
        with pytest.raises(CapacityError):
            _C.HostMemory(1 << 62, sharing=Sharing.SHARED)
    assert num_open_files() == before
    os.close(fd)


def test_attaching_takes_address_space_and_no_memory(monkeypatch) -> None:
    buffer = shared()
    limits = [HostLimit("memory.max", 1, 1), HostLimit("RLIMIT_AS", 99 << 20, 1)]
    monkeypatch.setattr(host_buffer, "host_limits", lambda: limits)
    HostBuffer.attach(buffer.fd).close()
    limits[1] = HostLimit("RLIMIT_AS", 12_300, 13)
    with pytest.raises(CapacityError, match=r"needs 12288 .* but RLIMIT_AS leaves 12287"):
        HostBuffer.attach(buffer.fd)
    limits.clear()
    room = [HostLimit("RLIMIT_MEMLOCK", 12_287, 0)]
    monkeypatch.setattr(host_buffer, "locked_limits", lambda: room)
    with pytest.raises(CapacityError, match=r"needs 12288 .* but RLIMIT_MEMLOCK leaves 12287"):
        HostBuffer.attach(buffer.fd, pin=PinMode.LOCKED)


def test_close_refuses_while_a_view_lives_and_the_file_stays_open() -> None:
    buffer = shared()
    array = buffer.array
    with pytest.raises(LifetimeError, match=r"'shm'.*1 views"):
        buffer.close()
    assert HostBuffer.attach(buffer.fd).array.nbytes == 12288
    del array
    buffer.close()
    with pytest.raises(LayoutError, match="closed"):
        _ = buffer.fd


# --- fork ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("pinned", [False, True])
def test_a_forked_child_works_on_the_same_bytes_and_never_unpins(pinned: bool) -> None:
    fake = FakeCuda()
    buffer = shared(pin_api=fake.api if pinned else None, pin=PinMode.AUTO)
    buffer.array[:] = 9

    def child() -> bool:
        seen = bool((buffer.array == 9).all())
        buffer.array[1] = 10
        buffer.close()
        return seen and "unpin" not in [name for name, _, _ in fake.calls]

    in_child(child)
    assert buffer.array[1] == 10 and buffer.is_pinned == pinned
    buffer.close()
    assert not fake.registered


def test_a_forked_child_attaches_by_the_inherited_descriptor() -> None:
    buffer = shared()

    def child() -> bool:
        mine = HostBuffer.attach(buffer.fd, num_bytes=NUM_BYTES)
        mine.array[:] = 4
        return mine.address != buffer.address

    in_child(child)
    assert (buffer.array == 4).all()


def test_private_memory_of_a_child_is_a_copy_until_it_is_pinned() -> None:
    """The pinned case, in which the child does not get it, is in test_host_memory.py."""
    buffer = HostBuffer(NUM_BYTES, pin=PinMode.NEVER)
    array = buffer.array

    def child() -> bool:
        array[:] = 1
        return bool(np.all(array == 1))

    in_child(child)
    assert not array.any()
