"""How much more host memory this process may take: cgroups v1 and v2, MemAvailable, RLIMITs.

Asked before a large mapping is touched. Afterwards there is nothing to ask: the kernel answers an
allocation beyond a cgroup's limit by killing the process, not by failing the call.
What special kinds of memory need besides is in host_placement.py.
"""

import resource
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from .errors import CapacityError

UNLIMITED_BYTES = 1 << 60  # cgroup v1 writes "no limit" as a number near 2**63
NO_OVERCOMMIT = 2  # vm.overcommit_memory: only then does CommitLimit bind


@dataclass(frozen=True)
class HostLimit:
    """One limit: `limit_bytes` in all, of which `used_bytes` cannot be had any more."""

    source: str  # the file or the name of the RLIMIT
    limit_bytes: int
    used_bytes: int

    @property
    def free_bytes(self) -> int:
        """What is left under this limit, never negative."""
        return max(0, self.limit_bytes - self.used_bytes)


def host_limits(root: Path = Path("/")) -> list[HostLimit]:
    """Every limit that binds this process, in bytes; `root` holds proc/ and sys/ (a test's own)."""
    return [*_meminfo_limits(root), *cgroup_limits(root), *_rlimits(root)]


def check_host_memory(num_bytes: int, what: str, limits: list[HostLimit] | None = None) -> None:
    """CapacityError, with every number, if `num_bytes` more do not fit under each of the limits."""
    limits = host_limits() if limits is None else limits
    broken = [limit for limit in limits if num_bytes > limit.free_bytes]
    if broken:
        reasons = "; ".join(
            f"{limit.source} leaves {limit.free_bytes} "
            f"(limit {limit.limit_bytes}, used {limit.used_bytes})"
            for limit in broken
        )
        raise CapacityError(f"{what}: needs {num_bytes} bytes of host memory, but {reasons}")


def _meminfo_limits(root: Path) -> Iterator[HostLimit]:
    path = root / "proc/meminfo"
    memory = fields(path)
    if "MemAvailable" in memory and "MemTotal" in memory:
        total, available = memory["MemTotal"] * 1024, memory["MemAvailable"] * 1024
        yield HostLimit(f"MemAvailable of {path}", total, total - available)
    if number(root / "proc/sys/vm/overcommit_memory") == NO_OVERCOMMIT and "CommitLimit" in memory:
        limit, used = memory["CommitLimit"] * 1024, memory["Committed_AS"] * 1024
        yield HostLimit(f"CommitLimit of {path} (overcommit_memory=2)", limit, used)


@dataclass(frozen=True)
class CgroupFiles:
    """Where one cgroup version keeps one kind of numbers."""

    controller: str  # as /proc/self/cgroup names it; "" in version 2
    mounts: tuple[str, ...]
    limit: str
    used: str
    cold_cache: str = ""  # the field of memory.stat that is dropped before anybody is killed


_MEMORY = (
    CgroupFiles(
        "memory",
        ("sys/fs/cgroup/memory",),
        "memory.limit_in_bytes",
        "memory.usage_in_bytes",
        "total_inactive_file",
    ),
    CgroupFiles(
        "",
        ("sys/fs/cgroup", "sys/fs/cgroup/unified"),
        "memory.max",
        "memory.current",
        "inactive_file",
    ),
)


def cgroup_limits(root: Path, kinds: tuple[CgroupFiles, ...] = _MEMORY) -> Iterator[HostLimit]:
    """The limits of this process' cgroups and of all their ancestors that can be seen."""
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, group = line.split(":", 2)
        for files in kinds:
            if files.controller in controllers.split(","):
                for mount in files.mounts:
                    yield from _group_limits(root / mount, group, files)


def _group_limits(mount: Path, group: str, files: CgroupFiles) -> Iterator[HostLimit]:
    # Inside a container the group's own path may be hidden, its files being mounted at the top:
    # whatever exists from the mount point down to the group is read.
    folder = mount
    for part in ("", *Path(group.lstrip("/")).parts):
        folder = folder / part
        limit, used = number(folder / files.limit), number(folder / files.used)
        if limit is None or used is None or limit >= UNLIMITED_BYTES:
            continue
        cold = fields(folder / "memory.stat").get(files.cold_cache, 0)
        yield HostLimit(str(folder / files.limit), limit, max(0, used - cold))


def _rlimits(root: Path) -> Iterator[HostLimit]:
    # RLIMIT_DATA counts private writable mappings; VmData is their sum.
    for kind, name, used in (
        (resource.RLIMIT_AS, "RLIMIT_AS", "VmSize"),
        (resource.RLIMIT_DATA, "RLIMIT_DATA", "VmData"),
    ):
        yield from rlimit(kind, name, used, root)


def rlimit(kind: int, name: str, used: str, root: Path) -> Iterator[HostLimit]:
    """One RLIMIT unless it is unlimited; `used` is a field of /proc/self/status, or none."""
    limit = resource.getrlimit(kind)[0]
    if limit != resource.RLIM_INFINITY:
        yield HostLimit(name, limit, fields(root / "proc/self/status").get(used, 0) * 1024)


def number(path: Path) -> int | None:
    """The number in a file; None if there is no such file or it says "max"."""
    try:
        return int(path.read_text())
    except (OSError, ValueError):
        return None


def fields(path: Path) -> dict[str, int]:
    """The "name value" and "name: value kB" lines of a file, as they are; empty if unreadable."""
    try:
        lines = path.read_text().splitlines()
    except OSError:
        return {}
    words = (line.replace(":", " ").split() for line in lines)
    return {word[0]: int(word[1]) for word in words if len(word) > 1 and word[1].isdigit()}
