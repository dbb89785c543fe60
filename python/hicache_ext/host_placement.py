"""What special kinds of host memory need: reserved huge pages, one NUMA node, locked pages.

Asked beforehand, as in host_limits.py, and for the same reason: a huge page or a node that has run
out is a SIGBUS or a killed process at the first touch.
"""

import resource
from collections.abc import Iterator
from pathlib import Path

from . import _C
from .errors import CapacityError
from .host_limits import CgroupFiles, HostLimit, cgroup_limits, host_limits, number, rlimit

CAP_IPC_LOCK = 14  # its bit: whoever has it locks without a limit
PAGE_BYTES = {_C.HugePages.MIB_2: 2 << 20, _C.HugePages.GIB_1: 1 << 30}
_NODES = "sys/devices/system/node"


def limits_of(
    sharing: _C.Sharing,
    huge_pages: _C.HugePages,
    numa_node: int | None,
    root: Path = Path("/"),
) -> list[HostLimit]:
    """Every limit on a mapping of this kind. CapacityError for a node or size that is not there."""
    page_bytes = PAGE_BYTES.get(huge_pages)
    limits = host_limits(root)
    if page_bytes:  # from a pool of their own: neither free memory nor the memory cgroup counts
        limits = [limit for limit in limits if limit.source.startswith("RLIMIT")]
        limits += _huge_page_limits(page_bytes, root)
    if sharing == _C.Sharing.SHARED:
        limits = [limit for limit in limits if limit.source != "RLIMIT_DATA"]
        limits += rlimit(resource.RLIMIT_FSIZE, "RLIMIT_FSIZE", "", root)
    if numa_node is not None:
        limits.append(_node_limit(numa_node, page_bytes, root))
    return limits


def numa_nodes(root: Path = Path("/")) -> list[int]:
    """The NUMA nodes that have memory which this process may use, ascending."""
    try:
        there = _listed((root / _NODES / "has_memory").read_text())
        status = (root / "proc/self/status").read_text()
    except OSError:
        return []
    allowed = [line for line in status.splitlines() if line.startswith("Mems_allowed_list:")]
    return sorted(there & _listed(allowed[0].split(":")[1])) if allowed else sorted(there)


def locked_limits(root: Path = Path("/")) -> list[HostLimit]:
    """RLIMIT_MEMLOCK, unless it is unlimited or the process has CAP_IPC_LOCK.

    It binds mlock (PinMode.LOCKED) and whoever registers memory with a network card. It does not
    bind CUDA, whose driver pins without charging it, which is why a pool that is pinned for the GPU
    is not refused for its 8 MiB in most containers.
    """
    status = (root / "proc/self/status").read_text().splitlines()
    effective = [int(line.split()[1], 16) for line in status if line.startswith("CapEff:")]
    if any(mask >> CAP_IPC_LOCK & 1 for mask in effective):
        return []
    return list(rlimit(resource.RLIMIT_MEMLOCK, "RLIMIT_MEMLOCK", "VmLck", root))


def _huge_page_limits(page_bytes: int, root: Path) -> Iterator[HostLimit]:
    folder = root / f"sys/kernel/mm/hugepages/hugepages-{page_bytes >> 10}kB"
    total, free = number(folder / "nr_hugepages"), number(folder / "free_hugepages")
    if total is None or free is None:
        raise CapacityError(f"this kernel has no huge pages of {page_bytes} bytes: no {folder}")
    reserved, surplus, overcommit = (
        number(folder / name) or 0
        for name in ("resv_hugepages", "surplus_hugepages", "nr_overcommit_hugepages")
    )
    on_demand = max(0, overcommit - surplus)
    total, free = total + on_demand, free + on_demand - reserved
    yield HostLimit(str(folder), total * page_bytes, (total - free) * page_bytes)
    size = f"{page_bytes >> 30}GB" if page_bytes >= 1 << 30 else f"{page_bytes >> 20}MB"
    files = (f"hugetlb.{size}.limit_in_bytes", f"hugetlb.{size}.usage_in_bytes")
    version_1 = CgroupFiles("hugetlb", ("sys/fs/cgroup/hugetlb",), *files)
    version_2 = CgroupFiles(
        "", ("sys/fs/cgroup",), f"hugetlb.{size}.max", f"hugetlb.{size}.current"
    )
    yield from cgroup_limits(root, (version_1, version_2))


def _node_limit(node: int, page_bytes: int | None, root: Path) -> HostLimit:
    nodes = numa_nodes(root)
    if node not in nodes:
        raise CapacityError(
            f"numa_node={node} has no memory that this process may use; the nodes that do: {nodes}"
        )
    folder = root / _NODES / f"node{node}"
    if page_bytes:
        pool = folder / f"hugepages/hugepages-{page_bytes >> 10}kB"
        total, free = number(pool / "nr_hugepages") or 0, number(pool / "free_hugepages") or 0
        return HostLimit(str(pool), total * page_bytes, (total - free) * page_bytes)
    # "Node 0 MemFree: 123 kB". Memory of other nodes does not help, and page cache is given up.
    lines = (line.split(maxsplit=2) for line in (folder / "meminfo").read_text().splitlines())
    memory = {line[2].split(":")[0]: int(line[2].split()[1]) * 1024 for line in lines}
    free = sum(memory.get(name, 0) for name in ("MemFree", "Active(file)", "Inactive(file)"))
    return HostLimit(str(folder / "meminfo"), memory["MemTotal"], memory["MemTotal"] - free)


def _listed(text: str) -> set[int]:
    """The numbers of "0,2-4"."""
    ranges = [part.split("-") for part in text.strip().split(",") if part]
    return {i for first, *last in ranges for i in range(int(first), int((last or [first])[0]) + 1)}


def huge_bytes(address: int, num_bytes: int, smaps: Path = Path("/proc/self/smaps")) -> int:
    """How much of a mapping the kernel really backs with huge pages, reserved or transparent."""
    counted = (
        "AnonHugePages",
        "ShmemPmdMapped",
        "FilePmdMapped",
        "Private_Hugetlb",
        "Shared_Hugetlb",
    )
    found, inside = 0, False
    for line in smaps.read_text().splitlines():
        name, *rest = line.split()
        if "-" in name and not name.endswith(":"):
            first, last = (int(part, 16) for part in name.split("-"))
            inside = address <= first and last <= address + num_bytes
        elif inside and name.rstrip(":") in counted:
            found += int(rest[0]) * 1024
    return found
