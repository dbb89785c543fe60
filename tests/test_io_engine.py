"""The I/O engine from Python; its C++ test has the faults, the limits and the callers."""

import errno
import mmap
import os
from pathlib import Path

import pytest

from hicache_ext import _C

PAGE = 64 << 10


@pytest.mark.parametrize("path", [_C.IoPath.THREADS, _C.IoPath.AUTO])
def test_pages_go_out_and_come_back(path: _C.IoPath, tmp_path: Path) -> None:
    engine = _C.IoEngine(path)
    memory = mmap.mmap(-1, 16 * PAGE)
    pages = [memoryview(memory)[i * PAGE : (i + 1) * PAGE] for i in range(16)]
    fd = os.open(tmp_path / "file", os.O_RDWR | os.O_CREAT)
    try:
        for i, page in enumerate(pages):
            page[:] = bytes([i]) * PAGE
        writes = [(_C.IoOp.WRITE, fd, i * PAGE, [page]) for i, page in enumerate(pages)]
        assert engine.run(writes[::-1]) == [0] * 16
        assert engine.sync(fd) == 0 and engine.sync(-1) == errno.EBADF
        assert (tmp_path / "file").read_bytes() == memory[:]
        memory[:] = bytes(16 * PAGE)
        halves = [part for page in pages for part in (page[: PAGE // 2], page[PAGE // 2 :])]
        assert engine.run([(_C.IoOp.READ, fd, 0, halves)]) == [0]
        assert memory[:] == (tmp_path / "file").read_bytes()
        assert engine.run([]) == []
        late = [(_C.IoOp.READ, fd, 16 * PAGE, [pages[0]])]
        assert engine.run(late) == [errno.ENODATA]
        assert engine.run(late, timeout_s=0) == [errno.ECANCELED]
    finally:
        os.close(fd)


def test_read_only_memory_is_refused_and_the_rest_given_back() -> None:
    memory = mmap.mmap(-1, PAGE)
    rows = [(_C.IoOp.READ, 0, 0, [memory]), (_C.IoOp.READ, 0, 0, [b"abc"])]
    with pytest.raises(BufferError):
        _C.IoEngine().run(rows)
    memory.close()  # a BufferError while somebody holds it
