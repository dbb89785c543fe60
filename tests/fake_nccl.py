"""NCCL without GPUs: communicators of processes (or threads) that meet and exchange in a folder.

Collectives run on the streams of the emulated CUDA (emulated_cuda.py): a rank hands its lanes over
when its stream gets there, and the stream goes on when all ranks have done so.
"""

from __future__ import annotations

import ctypes
import functools
import shutil
import subprocess
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hicache_ext import _C

SOURCE = Path(__file__).parent / "fake_nccl.c"
IN_PROGRESS = 7
INT64, MIN = 4, 3  # ncclDataType_t, ncclRedOp_t
KINDS, ENDS = ("all_reduce", "all_gather"), ("destroy", "abort")


@functools.cache
def _folder() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory()


@functools.cache
def _compiled(source: str) -> str:
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler")
    number = len(list(Path(_folder().name).iterdir()))
    out = f"{_folder().name}/{number}.so"
    subprocess.run(
        [compiler, "-shared", "-fPIC", "-o", out, "-xc", "-"], input=source, text=True, check=True
    )
    return out


def compile_c(source: Path, out: Path) -> str:
    """A copy of its own, with hooks of its own, although it is compiled once."""
    return str(shutil.copy(_compiled(source.read_text()), out))


class Config(ctypes.Structure):
    _fields_ = [
        ("size", ctypes.c_size_t),
        ("magic", ctypes.c_uint),
        ("version", ctypes.c_uint),
        ("blocking", ctypes.c_int),
    ]


class Comm(ctypes.Structure):
    _fields_ = [("id", ctypes.c_ubyte * 128), ("rank", ctypes.c_int), ("size", ctypes.c_int)]


_VOID, _INT, _SIZE = ctypes.c_void_p, ctypes.c_int, ctypes.c_size_t
_HOOKS = {
    "on_collective": ctypes.CFUNCTYPE(_INT, _INT, _VOID, _VOID, _SIZE, _INT, _INT, _VOID, _VOID),
    "on_start": ctypes.CFUNCTYPE(_INT, ctypes.POINTER(Comm), ctypes.POINTER(Config)),
    "on_state": ctypes.CFUNCTYPE(_INT, ctypes.POINTER(Comm)),
    "on_end": ctypes.CFUNCTYPE(_INT, ctypes.POINTER(Comm), _INT),
}


class FakeNccl:
    """The library at `path`, whose ranks meet in `folder`; `calls` tells what it was asked for."""

    def __init__(self, path: str, folder: Path, cuda: _C.CudaEmulator) -> None:
        self.path, self.calls = path, list[tuple[Any, ...]]()
        self.codes = dict[str, int]()  # what calls return, by name
        self.delays_s = dict[str, float]()  # of the network, by name
        self.state = 0  # of every communicator whose ranks have met
        self.never_connects = False
        self.errors = list[Exception]()
        self._folder, self._cuda = folder, cuda
        self._lent, self._num_lent = list[Comm](), 0
        self._started = dict[int, Comm]()  # those that were not lent
        self.captures = False  # then what is done may run again
        self.cpu_s = 0.0  # of going_on()
        self._collectives = list["_Collective"]()
        self._num_collectives = dict[tuple[str, int], int]()
        self._late = deque[Callable[[], None]]()
        library = ctypes.CDLL(path)
        self._hooks = [kind(self._guarded(getattr(self, name))) for name, kind in _HOOKS.items()]
        for name, hook in zip(_HOOKS, self._hooks, strict=True):
            _VOID.in_dll(library, name).value = ctypes.cast(hook, _VOID).value

    def _guarded(self, hook: Callable[..., int]) -> Callable[..., int]:
        def guarded(*args: Any) -> int:
            try:
                return hook(*args)
            except Exception as error:  # ctypes would only print it
                self.errors.append(error)
                return 3

        return guarded

    def lend(self, size: int = 1) -> list[int]:
        """A communicator that somebody else has made: what each of its ranks has of it."""
        self._num_lent += 1
        comms = [
            Comm((ctypes.c_ubyte * 128)(0, self._num_lent), rank, size) for rank in range(size)
        ]
        self._lent += comms
        return [ctypes.addressof(comm) for comm in comms]

    def on_start(self, comm: Any, config: Any) -> int:
        told = config.contents
        assert (told.size, hex(told.magic), told.version) == (24, "0xcafebeef", 21400)
        assert told.blocking == 0
        self.calls.append(("start", comm.contents.rank, comm.contents.size))
        self._started[ctypes.addressof(comm.contents)] = comm.contents
        self.write(comm.contents, "start", b"")
        return self.codes.get("start", IN_PROGRESS)

    def on_state(self, comm: Any) -> int:
        if self._late:
            self._late.popleft()()
            return IN_PROGRESS
        is_new = ctypes.addressof(comm.contents) in self._started
        waits = self.never_connects or not self.have_all(comm.contents, "start")
        return IN_PROGRESS if is_new and waits else self.state

    def on_end(self, comm: Any, end: int) -> int:
        self.calls.append((ENDS[end], comm.contents.rank))
        del self._started[ctypes.addressof(comm.contents)]
        return 0

    def on_collective(
        self, kind: int, send: int, recv: int, count: int, dtype: int, op: int, at: int, stream: Any
    ) -> int:
        name, stream = KINDS[kind], stream or 0
        self.calls.append((name, count, stream))
        assert (dtype, op) == (INT64, MIN if name == "all_reduce" else -1)
        code = self.codes.get(name, 0)
        comm = Comm.from_address(at)
        num_bytes = 8 * count * (comm.size if name == "all_gather" else 1)

        def enqueue() -> None:
            ranks = self._cuda.collective(send, 8 * count, recv, num_bytes, stream)
            self._collectives.append(_Collective(self, name, comm, ranks))

        if code == 0:
            enqueue()
        elif code == IN_PROGRESS:  # a later look at the state finds it done
            self._late.append(enqueue)
        return code

    def go_on(self) -> None:
        """What the network does."""
        for collective in list(self._collectives):
            collective.go_on()
            if collective.is_done and not self.captures:
                self._collectives.remove(collective)

    def next_number(self, comm: Comm) -> int:
        """Of the collective that starts now: all ranks count alike."""
        key = (bytes(comm.id).hex(), comm.rank)
        self._num_collectives[key] = self._num_collectives.get(key, 0) + 1
        return self._num_collectives[key]

    def write(self, comm: Comm, name: str, content: bytes) -> None:
        path = self.path_of(comm, name, comm.rank)
        half = path.with_suffix(".half")
        half.write_bytes(content)
        half.rename(path)

    def have_all(self, comm: Comm, name: str) -> bool:
        return all(self.path_of(comm, name, rank).exists() for rank in range(comm.size))

    def path_of(self, comm: Comm, name: str, rank: int) -> Path:
        return self._folder / f"{bytes(comm.id[1:9]).hex()}-{name}-{rank}"


class _Collective:
    """One, or as many as the graph that has captured it is replayed."""

    def __init__(self, nccl: FakeNccl, kind: str, comm: Comm, ranks: _C.EmulatedCollective) -> None:
        self._nccl, self._kind, self._comm, self._ranks = nccl, kind, comm, ranks
        self._waiting = deque[str]()
        self.is_done = False

    def go_on(self) -> None:
        if (mine := self._ranks.take()) is not None:
            name = f"{self._kind}-{self._nccl.next_number(self._comm)}"
            self._nccl.write(self._comm, name, mine)
            self._waiting.append(name)
        time.sleep(self._nccl.delays_s.get(self._kind, 0.0))
        while self._waiting and self._nccl.have_all(self._comm, self._waiting[0]):
            self._ranks.answer(self._minimum_or_rows(self._waiting.popleft()))
            self.is_done = not self._waiting

    def _minimum_or_rows(self, name: str) -> bytes:
        paths = [self._nccl.path_of(self._comm, name, rank) for rank in range(self._comm.size)]
        rows = np.array([np.fromfile(path, np.int64) for path in paths])
        return (rows.min(axis=0) if self._kind == "all_reduce" else rows).tobytes()


@contextmanager
def going_on(cuda: _C.CudaEmulator, nccl: FakeNccl) -> Iterator[None]:
    """The emulated device and network work while nobody waits for them, as real ones do."""
    stop = threading.Event()

    def run() -> None:
        while not stop.is_set():
            nccl.go_on()
            if not cuda.step():
                nccl.cpu_s = time.thread_time()
                stop.wait(0.001)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
