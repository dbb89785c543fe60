"""The yardstick of the disk itself: fio with io_uring and O_DIRECT on the same file."""

import json
import shutil
import subprocess
from pathlib import Path

from hicache_ext import _C


def fio_s(
    path: Path,
    op: _C.IoOp,
    *,
    page_bytes: int,
    num_pages: int,
    depth: int,
    is_random: bool = True,
    num_per_sync: int = 0,
) -> float:
    """Seconds that fio takes for as many pages of the file, anywhere in it or from its start.

    Registered file and buffers, and a sync at the end of writes, with `num_per_sync` also after as
    many pages. Of its own clock: fio needs about a second to start and to end.
    """
    if shutil.which("fio") is None:
        raise SystemExit("fio is needed as the yardstick: sudo apt-get install fio")
    is_read = op is _C.IoOp.READ
    pattern = ("rand" if is_random else "") + ("read" if is_read else "write")
    options = {
        "name": "pages",
        "filename": path,
        "size": path.stat().st_size,
        "io_size": page_bytes * num_pages,
        "bs": page_bytes,
        "rw": pattern,
        "iodepth": depth,
        "ioengine": "io_uring",
        "direct": 1,
        "fixedbufs": 1,
        "registerfiles": 1,
        "randrepeat": 0,
        "norandommap": 1,
        "invalidate": 1,
        "end_fsync": 0 if is_read else 1,
        "fdatasync": num_per_sync,
        "output-format": "json",
    }
    command = ["fio", *(f"--{name}={value}" for name, value in options.items())]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=path.parent)
    (job,) = json.loads(done.stdout)["jobs"]
    told = job["read" if is_read else "write"]
    assert told["io_bytes"] == page_bytes * num_pages, told["io_bytes"]
    return told["io_bytes"] / told["bw_bytes"]
