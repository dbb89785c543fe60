"""What huge pages, NUMA nodes and locked memory need, on made-up proc/ and sys/ trees."""

import resource
from pathlib import Path

import pytest
from test_host_limits import write

from hicache_ext._C import HugePages, Sharing
from hicache_ext.errors import CapacityError
from hicache_ext.host_limits import HostLimit, check_host_memory
from hicache_ext.host_placement import huge_bytes, limits_of, locked_limits, numa_nodes

MIB, GIB = 1 << 20, 1 << 30
NODES = "sys/devices/system/node"
HUGE = "sys/kernel/mm/hugepages/hugepages-2048kB"
STATUS = "Name:\tx\nVmSize:\t4 kB\nVmData:\t8 kB\nVmLck:\t3 kB\n"


def by_name(limits: list[HostLimit], root: Path) -> dict[str, int]:
    return {x.source.removeprefix(f"{root}/"): x.free_bytes for x in limits}


def huge_pool(total: int, free: int, reserved: int, surplus: int, overcommit: int) -> dict:
    return {
        f"{HUGE}/nr_hugepages": f"{total}\n",
        f"{HUGE}/free_hugepages": f"{free}\n",
        f"{HUGE}/resv_hugepages": f"{reserved}\n",
        f"{HUGE}/surplus_hugepages": f"{surplus}\n",
        f"{HUGE}/nr_overcommit_hugepages": f"{overcommit}\n",
    }


@pytest.fixture
def rlimits(monkeypatch):
    """{RLIMIT: bytes} that the test may fill; the others are unlimited."""
    limits: dict[int, int] = {}
    unlimited = resource.RLIM_INFINITY
    monkeypatch.setattr(
        resource, "getrlimit", lambda asked: (limits.get(asked, unlimited), unlimited)
    )
    return limits


def test_reserved_pages_are_counted_from_their_own_pool(tmp_path: Path, rlimits) -> None:
    files = {"proc/meminfo": "MemTotal: 9 kB\nMemAvailable: 0 kB\n", **huge_pool(10, 6, 2, 0, 0)}
    write(tmp_path, files)
    limits = limits_of(Sharing.PRIVATE, HugePages.MIB_2, None, tmp_path)
    assert by_name(limits, tmp_path) == {HUGE: 4 * 2 * MIB}  # free, less what others reserved
    with pytest.raises(CapacityError, match=rf"{HUGE} leaves {8 * MIB} \(limit {20 * MIB}, used"):
        check_host_memory(8 * MIB + 1, "pool 'full'", limits)


def test_overcommitted_huge_pages_count_until_they_are_made(tmp_path: Path, rlimits) -> None:
    write(tmp_path, huge_pool(10, 6, 2, 1, 5))
    (limit,) = limits_of(Sharing.PRIVATE, HugePages.MIB_2, None, tmp_path)
    assert (limit.free_bytes, limit.limit_bytes) == ((4 + 4) * 2 * MIB, (10 + 4) * 2 * MIB)


def test_a_size_that_the_kernel_does_not_have(tmp_path: Path, rlimits) -> None:
    write(tmp_path, huge_pool(10, 10, 0, 0, 0))
    with pytest.raises(CapacityError, match=f"no huge pages of {GIB} bytes.*1048576kB"):
        limits_of(Sharing.PRIVATE, HugePages.GIB_1, None, tmp_path)


def test_hugetlb_cgroups_of_both_versions(tmp_path: Path, rlimits) -> None:
    v1, v2 = "sys/fs/cgroup/hugetlb/job", "sys/fs/cgroup/job"
    files = {
        "proc/self/cgroup": "3:hugetlb:/job\n2:memory:/job\n0::/job\n",
        f"{v1}/hugetlb.2MB.limit_in_bytes": f"{8 * MIB}\n",
        f"{v1}/hugetlb.2MB.usage_in_bytes": f"{2 * MIB}\n",
        f"{v2}/hugetlb.2MB.max": f"{10 * MIB}\n",
        f"{v2}/hugetlb.2MB.current": "0\n",
        f"{v2}/memory.max": "1\n",
        f"{v2}/memory.current": "0\n",
        **huge_pool(100, 100, 0, 0, 0),
    }
    limits = limits_of(Sharing.PRIVATE, HugePages.MIB_2, None, write(tmp_path, files))
    assert by_name(limits, tmp_path) == {
        HUGE: 200 * MIB,
        f"{v1}/hugetlb.2MB.limit_in_bytes": 6 * MIB,
        f"{v2}/hugetlb.2MB.max": 10 * MIB,
    }


def nodes(allowed: str = "0-3") -> dict[str, str]:
    meminfo = (
        "Node 1 MemTotal:  1000 kB\nNode 1 MemFree:  300 kB\n"
        "Node 1 Active(file):  20 kB\nNode 1 Inactive(file): 5 kB\nNode 1 Shmem: 7 kB\n"
    )
    return {
        f"{NODES}/has_memory": "0-1,3\n",
        "proc/self/status": f"{STATUS}Mems_allowed_list:\t{allowed}\n",
        f"{NODES}/node1/meminfo": meminfo,
        f"{NODES}/node1/hugepages/hugepages-2048kB/nr_hugepages": "7\n",
        f"{NODES}/node1/hugepages/hugepages-2048kB/free_hugepages": "5\n",
    }


def test_nodes_with_memory_that_the_cpuset_allows(tmp_path: Path) -> None:
    assert numa_nodes(write(tmp_path, nodes())) == [0, 1, 3]
    assert numa_nodes(write(tmp_path, nodes("1-2"))) == [1]
    assert numa_nodes(tmp_path / "nowhere") == []


def test_a_node_limits_what_it_holds(tmp_path: Path, rlimits) -> None:
    write(tmp_path, {**nodes(), **huge_pool(9, 9, 0, 0, 0)})
    small = limits_of(Sharing.PRIVATE, HugePages.ADVISE, 1, tmp_path)
    assert by_name(small, tmp_path)[f"{NODES}/node1/meminfo"] == 325 * 1024
    large = limits_of(Sharing.PRIVATE, HugePages.MIB_2, 1, tmp_path)
    pool = f"{NODES}/node1/hugepages/hugepages-2048kB"
    assert by_name(large, tmp_path) == {HUGE: 18 * MIB, pool: 10 * MIB}


@pytest.mark.parametrize(("node", "allowed"), [(2, "0-3"), (4096, "0-3"), (0, "1")])
def test_a_node_that_is_not_there_or_not_allowed(tmp_path, rlimits, node, allowed) -> None:
    there = "[1]" if allowed == "1" else "[0, 1, 3]"
    with pytest.raises(CapacityError) as raised:
        limits_of(Sharing.PRIVATE, HugePages.ADVISE, node, write(tmp_path, nodes(allowed)))
    assert f"numa_node={node} " in str(raised.value) and there in str(raised.value)


def test_shared_memory_has_the_limits_of_a_file(tmp_path: Path, rlimits) -> None:
    write(tmp_path, {"proc/self/status": STATUS})
    rlimits.update({resource.RLIMIT_DATA: 8192, resource.RLIMIT_FSIZE: 5 * MIB})
    private = limits_of(Sharing.PRIVATE, HugePages.ADVISE, None, tmp_path)
    assert by_name(private, tmp_path) == {"RLIMIT_DATA": 0}
    shared = limits_of(Sharing.SHARED, HugePages.ADVISE, None, tmp_path)
    assert by_name(shared, tmp_path) == {"RLIMIT_FSIZE": 5 * MIB}


def test_locked_bytes(tmp_path: Path, rlimits) -> None:
    rlimits[resource.RLIMIT_MEMLOCK] = 8 * MIB
    write(tmp_path, {"proc/self/status": f"{STATUS}CapEff:\t0000000000003fff\n"})
    assert by_name(locked_limits(tmp_path), tmp_path) == {"RLIMIT_MEMLOCK": 8 * MIB - 3072}
    write(tmp_path, {"proc/self/status": f"{STATUS}CapEff:\t0000000000004000\n"})
    assert locked_limits(tmp_path) == []  # CAP_IPC_LOCK


def test_huge_bytes_are_those_of_the_mapping_alone(tmp_path: Path) -> None:
    smaps = tmp_path / "smaps"
    smaps.write_text(
        "1000-3000 rw-p 00000000 00:00 0 \nRss: 8 kB\nAnonHugePages: 4 kB\nPrivate_Hugetlb: 2 kB\n"
        "3000-4000 rw-s 00000000 00:01 7 /memfd:hicache (deleted)\nShmemPmdMapped: 16 kB\n"
        "Shared_Hugetlb: 8 kB\nFilePmdMapped: 1 kB\n"
        "5000-6000 rw-p 00000000 00:00 0 [heap]\nAnonHugePages: 64 kB\n"
    )
    assert huge_bytes(0x1000, 0x3000, smaps) == 31 * 1024
    assert huge_bytes(0x3000, 0x1000, smaps) == 25 * 1024
    assert huge_bytes(0x4000, 0x1000, smaps) == 0
