"""What the limits of a machine are read from, on made-up proc/ and sys/ trees."""

import resource
from pathlib import Path

import pytest

from hicache_ext.errors import CapacityError
from hicache_ext.host_limits import check_host_memory, host_limits

GIB = 1 << 30
NO_LIMIT_V1 = "9223372036854771712\n"


def write(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


def free_by_file(root: Path) -> dict[str, int]:
    return {
        str(limit.source).removeprefix(str(root)).lstrip("/"): limit.free_bytes
        for limit in host_limits(root)
        if limit.source.startswith(str(root))
    }


def test_meminfo(tmp_path: Path) -> None:
    text = "MemTotal: 8000000 kB\nMemFree: 1 kB\nMemAvailable: 3000000 kB\n"
    write(tmp_path, {"proc/meminfo": text})
    (limit,) = host_limits(tmp_path)
    assert limit.free_bytes == 3000000 * 1024 and limit.limit_bytes == 8000000 * 1024


def test_commit_limit_binds_only_without_overcommit(tmp_path: Path) -> None:
    text = "CommitLimit: 100 kB\nCommitted_AS: 40 kB\n"
    write(tmp_path, {"proc/meminfo": text, "proc/sys/vm/overcommit_memory": "0\n"})
    assert host_limits(tmp_path) == []
    write(tmp_path, {"proc/sys/vm/overcommit_memory": "2\n"})
    assert [limit.free_bytes for limit in host_limits(tmp_path)] == [60 * 1024]


def test_cgroup_v2_takes_every_ancestor_and_forgives_cold_cache(tmp_path: Path) -> None:
    base = "sys/fs/cgroup"
    files = {
        "proc/self/cgroup": "0::/pod/server\n",
        f"{base}/pod/memory.max": f"{4 * GIB}\n",
        f"{base}/pod/memory.current": f"{3 * GIB}\n",
        f"{base}/pod/memory.stat": f"anon 5\nfile 6\ninactive_file {GIB}\n",
        f"{base}/pod/server/memory.max": "max\n",
        f"{base}/pod/server/memory.current": f"{GIB}\n",
    }
    write(tmp_path, files)
    assert free_by_file(tmp_path) == {f"{base}/pod/memory.max": 2 * GIB}


def test_cgroup_v2_namespace_shows_only_the_top(tmp_path: Path) -> None:
    files = {
        "proc/self/cgroup": "0::/../hidden\n",
        "sys/fs/cgroup/memory.max": "1000\n",
        "sys/fs/cgroup/memory.current": "1500\n",
    }
    write(tmp_path, files)
    assert free_by_file(tmp_path) == {"sys/fs/cgroup/memory.max": 0}


def test_cgroup_v1(tmp_path: Path) -> None:
    base = "sys/fs/cgroup/memory"
    files = {
        "proc/self/cgroup": "5:cpu,cpuacct:/x\n4:memory:/docker/abc\n0::/\n",
        f"{base}/memory.limit_in_bytes": NO_LIMIT_V1,
        f"{base}/memory.usage_in_bytes": "5\n",
        f"{base}/docker/abc/memory.limit_in_bytes": "10000\n",
        f"{base}/docker/abc/memory.usage_in_bytes": "7000\n",
        f"{base}/docker/abc/memory.stat": "inactive_file 1\ntotal_inactive_file 2000\n",
    }
    write(tmp_path, files)
    assert free_by_file(tmp_path) == {f"{base}/docker/abc/memory.limit_in_bytes": 5000}


def test_cgroup_v1_hidden_path_uses_the_mounted_top(tmp_path: Path) -> None:
    base = "sys/fs/cgroup/memory"
    files = {
        "proc/self/cgroup": "4:memory:/docker/abc\n",
        f"{base}/memory.limit_in_bytes": "10000\n",
        f"{base}/memory.usage_in_bytes": "1000\n",
    }
    write(tmp_path, files)
    assert free_by_file(tmp_path) == {f"{base}/memory.limit_in_bytes": 9000}


@pytest.mark.parametrize(
    ("kind", "name", "field"),
    [(resource.RLIMIT_AS, "RLIMIT_AS", "VmSize"), (resource.RLIMIT_DATA, "RLIMIT_DATA", "VmData")],
)
def test_rlimit(tmp_path: Path, monkeypatch, kind, name, field) -> None:
    write(tmp_path, {"proc/self/status": f"Name:\tx\n{field}:\t  10 kB\n"})
    unlimited = (resource.RLIM_INFINITY, resource.RLIM_INFINITY)
    real = {kind: (30 * 1024, resource.RLIM_INFINITY)}
    monkeypatch.setattr(resource, "getrlimit", lambda asked: real.get(asked, unlimited))
    assert [(x.source, x.free_bytes) for x in host_limits(tmp_path)] == [(name, 20 * 1024)]


def test_refusal_names_every_broken_limit_with_its_numbers(tmp_path: Path) -> None:
    files = {
        "proc/meminfo": "MemTotal: 100 kB\nMemAvailable: 50 kB\n",
        "proc/self/cgroup": "0::/\n",
        "sys/fs/cgroup/memory.max": "40000\n",
        "sys/fs/cgroup/memory.current": "30000\n",
    }
    limits = host_limits(write(tmp_path, files))
    check_host_memory(10000, "pool 'full'", limits)
    with pytest.raises(CapacityError) as raised:
        check_host_memory(60000, "pool 'full'", limits)
    for word in ("pool 'full'", "60000", "51200", "memory.max", "10000", "40000", "30000"):
        assert word in str(raised.value)
    with pytest.raises(CapacityError) as raised:
        check_host_memory(10001, "pool 'full'", limits)
    assert "MemAvailable" not in str(raised.value)


def test_this_machine_has_limits_and_refuses_a_petabyte() -> None:
    assert host_limits()
    with pytest.raises(CapacityError, match=str(1 << 50)):
        check_host_memory(1 << 50, "pool 'full'")
