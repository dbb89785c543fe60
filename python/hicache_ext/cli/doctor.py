"""`hicache doctor`: what this machine and this build have, and what to install for the rest."""

from __future__ import annotations

import ctypes.util
import mmap
import re
import resource
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import numpy as np

from hicache_ext import _C
from hicache_ext.errors import StorageError

MEMORY_BYTES = 64 << 20  # what is registered and hashed to see how that goes
CHECKSUM_S = 0.1
APT = "apt-get install"


@dataclass(frozen=True)
class Fact:
    """A line of the report. `remedy`: what to do about it, empty where nothing is lacking."""

    name: str
    value: str
    remedy: str = ""


def diagnose(folder: Path) -> list[Fact]:
    """Everything that the doctor looks at; `folder` is one that a store is or will be in."""
    return [*_build(), *_io(folder), *_memory(), _checksum(), *_tools(), *_extras()]


def report(facts: list[Fact]) -> str:
    """The facts one below the other, each remedy under its own."""
    width = max(len(fact.name) for fact in facts)
    lines = []
    for fact in facts:
        lines.append(f"{fact.name:<{width}}  {fact.value}")
        if fact.remedy:
            lines.append(f"{'':<{width}}  -> {fact.remedy}")
    return "\n".join(lines)


def _build() -> Iterator[Fact]:
    cuda = "built in" if _C.with_cuda else "not built in: the device tier is host memory"
    yield Fact("CUDA", cuda)


def _io(folder: Path) -> Iterator[Fact]:
    engine = _C.IoEngine()
    told, reason = engine.report, engine.report["engine_reason"]
    remedy = ""
    if "liburing" in reason:
        remedy = f"{APT} liburing-dev, then build again"
    elif reason and reason != "asked for":
        remedy = "allow io_uring (kernel.io_uring_disabled, the seccomp filter of the container)"
    yield Fact("I/O engine", ": ".join(filter(None, (told["engine"], reason))), remedy)
    # Page by page, so that there is something to pin.
    memory = np.zeros(MEMORY_BYTES, np.uint8)
    memory[:: mmap.PAGESIZE] = 1
    address = -(-memory.ctypes.data // mmap.PAGESIZE) * mmap.PAGESIZE
    engine.add_buffer(address, MEMORY_BYTES - mmap.PAGESIZE)
    buffers = engine.report["buffers"]
    engine.remove_buffer(address)
    refused = told["engine"] == "io_uring" and buffers != "registered"
    raise_it = "raise RLIMIT_MEMLOCK (ulimit -l) above the size of the host pools"
    yield Fact("I/O buffers", buffers, raise_it if refused else "")
    try:
        works, why = _C.probe_direct_io(str(folder))
    except StorageError as error:
        yield Fact("O_DIRECT", str(error), "name a folder that can be written to")
        return
    remedy = "" if works else "put the store on a file system with O_DIRECT (ext4, xfs)"
    yield Fact(f"O_DIRECT in {folder}", "works" if works else f"no: {why}", remedy)


def _memory() -> Iterator[Fact]:
    limit = resource.getrlimit(resource.RLIMIT_MEMLOCK)[0]
    has_none = limit == resource.RLIM_INFINITY
    yield Fact("memlock", "unlimited" if has_none else f"{limit >> 10} KiB")
    path = Path("/sys/kernel/mm/transparent_hugepage/enabled")
    chosen = re.search(r"\[(\w+)\]", path.read_text()) if path.exists() else None
    mode = chosen[1] if chosen else "not in this kernel"
    remedy = "" if mode in ("always", "madvise") else f"echo madvise > {path}"
    yield Fact("huge pages", mode, remedy)


def _checksum() -> Fact:
    # The time of this thread: other work on the machine does not make a checksum dearer.
    page, num_pages, start = bytes(256 << 10), 0, time.thread_time()
    while (passed := time.thread_time() - start) < CHECKSUM_S:
        _C.xxh3_128_digest(page)
        num_pages += 1
    return Fact("checksum", f"xxh3_128, {num_pages * len(page) / passed / 1e9:.1f} GB/s in cache")


def _tools() -> Iterator[Fact]:
    has_fio = shutil.which("fio") is not None
    yield Fact("fio", _there(has_fio), "" if has_fio else f"{APT} fio (for make bench-store)")
    has_verbs = ctypes.util.find_library("ibverbs") is not None
    yield Fact(
        "libibverbs", _there(has_verbs), "" if has_verbs else f"{APT} libibverbs1 (Mooncake)"
    )


def _extras() -> Iterator[Fact]:
    """The optional packages as pyproject.toml groups them."""
    groups: dict[str, list[str]] = {}
    for line in metadata.requires("hicache_ext") or []:
        package, extra = re.match(r"[\w.-]+", line), re.search(r"extra == ['\"](\w+)", line)
        if package and extra and extra[1] != "dev":
            groups.setdefault(extra[1], []).append(package[0])
    for name, packages in groups.items():
        missing = [package for package in packages if not _is_installed(package)]
        remedy = f"pip install 'hicache_ext[{name}]'" if missing else ""
        value = f"without {', '.join(missing)}" if missing else "there"
        yield Fact(f"extra {name}", value, remedy)


def _is_installed(package: str) -> bool:
    try:
        metadata.version(package)
    except metadata.PackageNotFoundError:
        return False
    return True


def _there(is_there: bool) -> str:
    return "there" if is_there else "missing"
