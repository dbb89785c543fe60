"""HostMemory: the mapping, its views, and what a fork does to it."""

import os
import subprocess
import sys
import textwrap

import numpy as np
import pytest
from fake_cuda import FakeCuda

from hicache_ext import _C
from hicache_ext.errors import CapacityError, HiCacheError, LifetimeError

KIB, MIB = 1024, 1 << 20


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


TOUCH = """
import os
from hicache_ext import _C
memory = [_C.HostMemory(160 << 20, num_threads=threads) for threads in (1, 3)]  # 3 slices
print(len(os.listdir("/proc/self/task")))
"""


def test_the_first_touch_is_made_by_several_threads() -> None:
    before = TOUCH.replace("(1, 3)", "(1,)")
    num_threads = [
        int(subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout)
        for code in (before, TOUCH)
    ]
    assert num_threads[1] - num_threads[0] == 2  # and the caller is the third


TOUCH_ALONE = """
import os, resource
from hicache_ext import _C
resource.setrlimit(resource.RLIMIT_NPROC, (0, 0))
if os.getuid() == 0:
    os.setuid(65534)  # whom the limit binds
memory = _C.HostMemory(160 << 20, num_threads=3)
lines = open("/proc/self/smaps_rollup").read().splitlines()
print(len(os.listdir("/proc/self/task")), *(x.split()[1] for x in lines if "Anonymous:" in x))
"""


def test_without_a_thread_to_be_had_the_caller_touches_alone() -> None:
    done = subprocess.run([sys.executable, "-c", TOUCH_ALONE], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    num_threads, resident_kib = map(int, done.stdout.split())
    assert num_threads == 1 and resident_kib >= 160 * KIB


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


# --- fork ----------------------------------------------------------------------------------------

FORK = """
import os, sys
import numpy as np
sys.path.insert(0, {tests!r})
from hicache_ext import _C
from fake_cuda import FakeCuda
memory, fake = _C.HostMemory(4 << 20), FakeCuda()
array = np.frombuffer(memory, dtype=np.uint8)
array[:] = 9
if {pinned}:
    memory.pin(fake.api, 4096)
if {unpinned}:
    memory.unpin()
    fake.calls.clear()
child = os.fork()
if child == 0:
    if {pinned} and not {unpinned}:
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


@pytest.mark.parametrize(("pinned", "unpinned"), [(False, False), (True, False), (True, True)])
def test_a_forked_child_sees_unpinned_memory_and_never_unpins(pinned, unpinned) -> None:
    options = dict(tests=os.path.dirname(__file__), pinned=pinned, unpinned=unpinned)
    script = textwrap.dedent(FORK).format(**options)
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_errors_are_of_the_family() -> None:
    assert issubclass(LifetimeError, HiCacheError) and issubclass(LifetimeError, BufferError)
