"""HostBuffer: placement, huge pages, locked pages, and what close() refuses."""

import math
import mmap
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from hicache_ext import _C
from hicache_ext.errors import CapacityError, LayoutError, LifetimeError
from hicache_ext.host_placement import huge_bytes, numa_nodes
from hicache_ext.pool import (
    HostBuffer,
    HugePages,
    PinMode,
    Sharing,
)

KIB, MIB, GIB = 1 << 10, 1 << 20, 1 << 30


def status_kib(field: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field))


@pytest.mark.parametrize("sharing", [Sharing.PRIVATE, Sharing.SHARED])
@pytest.mark.parametrize("huge_pages", [HugePages.NEVER, HugePages.ADVISE])
@pytest.mark.parametrize("num_bytes", [1, 4097, 2 * MIB, 5 * MIB + 3])
def test_every_kind_is_zero_aligned_and_writable_to_its_end(sharing, huge_pages, num_bytes) -> None:
    buffer = HostBuffer(num_bytes, sharing=sharing, huge_pages=huge_pages, num_threads=2)
    assert buffer.num_bytes == num_bytes and buffer.array.dtype == np.uint8
    assert buffer.address % (2 * MIB if num_bytes >= 2 * MIB else 4096) == 0
    assert buffer.array.nbytes == num_bytes and not buffer.array.any()
    buffer.array[:] = 7
    assert bytes(buffer.view()[-1:]) == b"\x07" and buffer.array.ctypes.data == buffer.address
    buffer.close()
    buffer.close()
    assert buffer.is_closed


def test_transparent_huge_pages_are_told_as_they_are() -> None:
    enabled = Path("/sys/kernel/mm/transparent_hugepage/enabled")
    if not enabled.exists() or "[never]" in enabled.read_text():
        pytest.skip("no transparent huge pages here")
    plain = HostBuffer(16 * MIB, huge_pages=HugePages.NEVER)
    assert plain.huge_bytes == 0
    advised = HostBuffer(16 * MIB)
    if advised.huge_bytes == 0:
        probe = mmap.mmap(-1, 16 * MIB, flags=mmap.MAP_PRIVATE)
        probe.madvise(mmap.MADV_HUGEPAGE)
        probe.write(bytes(16 * MIB))
        address = np.frombuffer(probe, np.uint8).ctypes.data
        assert huge_bytes(address, 16 * MIB) == 0, "another mapping got huge pages, ours did not"
        pytest.skip("the kernel gives small pages now: its free memory is in pieces")
    assert advised.huge_bytes % (2 * MIB) == 0 and advised.huge_bytes <= 16 * MIB


def test_the_kernel_is_told_which_pages_are_wanted() -> None:
    if not Path("/sys/kernel/mm/transparent_hugepage").exists():
        pytest.skip("no transparent huge pages here")
    for huge_pages, told in ((HugePages.ADVISE, "hg"), (HugePages.NEVER, "nh")):
        buffer = HostBuffer(2 * MIB, huge_pages=huge_pages)
        maps = Path("/proc/self/smaps").read_text()
        _, found, mine = maps.partition(f"\n{buffer.address:x}-")
        flags = mine.partition("VmFlags:")[2].partition("\n")[0].split()
        assert found and {"hg", "nh"} & set(flags) == {told}


@pytest.mark.parametrize("huge_pages", [HugePages.MIB_2, HugePages.GIB_1])
@pytest.mark.parametrize("sharing", [Sharing.PRIVATE, Sharing.SHARED])
def test_reserved_huge_pages_or_a_refusal_with_numbers(huge_pages, sharing) -> None:
    page_bytes = {HugePages.MIB_2: 2 * MIB, HugePages.GIB_1: GIB}[huge_pages]
    pool = Path(f"/sys/kernel/mm/hugepages/hugepages-{page_bytes >> 10}kB")
    free = int((pool / "free_hugepages").read_text()) if pool.exists() else 0
    with pytest.raises(CapacityError, match=f"'huge'.*{page_bytes >> 10}kB"):
        HostBuffer((free + 1) * page_bytes, name="'huge'", huge_pages=huge_pages, sharing=sharing)
    if free == 0:
        pytest.skip(f"refused as it should; no free huge pages in {pool} to see one given")
    buffer = HostBuffer(3, huge_pages=huge_pages, sharing=sharing)
    assert buffer.huge_bytes == page_bytes and buffer.address % page_bytes == 0
    buffer.array[:] = 1
    if sharing is Sharing.SHARED:
        assert HostBuffer.attach(buffer.fd, num_bytes=3).array.tolist() == [1, 1, 1]
    buffer.close()
    assert int((pool / "free_hugepages").read_text()) == free


@pytest.mark.parametrize("sharing", [Sharing.PRIVATE, Sharing.SHARED])
def test_all_pages_lie_on_the_node_that_was_asked_for(sharing) -> None:
    nodes = numa_nodes()
    if not nodes:
        pytest.skip("this kernel has no NUMA")
    buffer = HostBuffer(3 * MIB, numa_node=nodes[-1], sharing=sharing)
    maps = Path("/proc/self/numa_maps").read_text().splitlines()
    (line,) = (line for line in maps if int(line.split()[0], 16) == buffer.address)
    assert f"bind:{nodes[-1]}" in line and f"N{nodes[-1]}=" in line
    assert [word[:2] for word in line.split() if word.startswith("N")] == [f"N{nodes[-1]}"]


@pytest.mark.parametrize("node", [9, 1023, 1024, 10**6])
def test_a_node_that_is_not_there_is_refused_with_the_nodes_that_are(node: int) -> None:
    if node in numa_nodes():
        pytest.skip(f"there is a node {node}")
    with pytest.raises(CapacityError, match=rf"numa_node={node}.*\[0"):
        HostBuffer(4096, numa_node=node)
    with pytest.raises(CapacityError, match=f"4096 bytes to NUMA node {node} failed"):
        _C.HostMemory(4096, numa_node=node)  # and the kernel refuses as well


def test_locked_memory_stays_in_ram() -> None:
    before = status_kib("VmLck")
    try:
        buffer = HostBuffer(3 * MIB, pin=PinMode.LOCKED)
    except CapacityError as error:
        pytest.skip(f"refused with numbers: {error}")
    assert status_kib("VmLck") - before == 3 * KIB
    assert not buffer.is_pinned and "LOCKED" in buffer.pinning
    buffer.close()
    assert status_kib("VmLck") == before


LOCK = """
import os, resource
from hicache_ext.errors import CapacityError
from hicache_ext.host_buffer import HostBuffer, PinMode
resource.setrlimit(resource.RLIMIT_MEMLOCK, (1 << 20, 1 << 20))
if os.getuid() == 0:
    os.setuid(65534)  # without CAP_IPC_LOCK
HostBuffer(1 << 19, pin=PinMode.LOCKED)
try:
    HostBuffer(2 << 20, pin=PinMode.LOCKED, name="pool 'full'")
except CapacityError as error:
    print(error)
"""


def test_locking_beyond_rlimit_memlock_is_refused_with_numbers() -> None:
    done = subprocess.run([sys.executable, "-c", LOCK], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for words in (f"pool 'full': needs {2 * MIB} bytes", "RLIMIT_MEMLOCK leaves", f"limit {MIB}"):
        assert words in done.stdout


@pytest.mark.parametrize(
    ("argument", "wrong"),
    [
        *(
            (name, wrong)
            for name in ("num_bytes", "num_threads", "numa_node", "object_bytes")
            for wrong in (-1, 1.0, math.nan, True, "1", 2**70)
        ),
        ("num_bytes", None),
        ("sharing", "shared"),
        ("huge_pages", 2 * MIB),
        ("pin", "never"),
        ("pin_api", "cuda"),
    ],
)
def test_bad_arguments_are_typed_and_name_the_value(argument, wrong) -> None:
    before = status_kib("VmSize")
    with pytest.raises(LayoutError, match=re.escape(f"{argument}={wrong!r} ")):
        HostBuffer(**{"num_bytes": 64 * MIB, argument: wrong})
    assert status_kib("VmSize") - before < 64 * KIB  # nothing was mapped for it


def test_nothing_and_too_much_are_refused() -> None:
    with pytest.raises(CapacityError, match="num_bytes=0"):
        HostBuffer(0)
    with pytest.raises(CapacityError, match=f"'l2': needs {1 << 50} bytes"):
        HostBuffer(1 << 50, name="'l2'")


def test_shared_memory_beyond_the_file_size_limit_is_refused_not_killed() -> None:
    code = "import resource, signal\nfrom hicache_ext.errors import CapacityError\n"
    code += "from hicache_ext.host_buffer import HostBuffer, Sharing\n"
    code += "resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))\n"
    code += "HostBuffer(1 << 20, sharing=Sharing.SHARED)\n"
    code += "try: HostBuffer((1 << 20) + 1, sharing=Sharing.SHARED)\n"
    code += "except CapacityError as error: print(error)\n"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert f"RLIMIT_FSIZE leaves {MIB}" in done.stdout and str(MIB + 1) in done.stdout


def test_address_space_comes_back() -> None:
    before = status_kib("VmSize")
    for num_bytes in [4 * MIB, 4 * MIB + 1] * 20:  # of which the aligned part is kept
        HostBuffer(num_bytes).close()
    assert status_kib("VmSize") - before < 8 * KIB


# --- views ---------------------------------------------------------------------------------------


def test_close_refuses_while_a_tensor_of_another_library_lives() -> None:
    buffer = HostBuffer(8192, name="'l2'")
    tensor = torch.from_dlpack(buffer)
    assert tensor.dtype == torch.uint8 and tensor.data_ptr() == buffer.address
    tensor[5] = 9
    assert buffer.array[5] == 9
    with pytest.raises(LifetimeError, match=rf"'l2'.*1 views.*8192 bytes at {buffer.address:#x}"):
        buffer.close()
    assert not buffer.is_closed
    del tensor
    buffer.close()
    with pytest.raises(LifetimeError, match="closed"):
        buffer.view()
    with pytest.raises(LifetimeError, match="closed"):
        torch.from_dlpack(buffer)
