"""The file that a rank leaves behind when the ranks have parted: its last operations, in words."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from hicache_ext.oplog import OpLog

FOLDER_VARIABLE = "HICACHE_DUMP_DIR"


def write_dump(text: str, log: OpLog, rank: int, epoch: int, first_op: int | None) -> Path:
    """Writes a new file, of mode 0600, into HICACHE_DUMP_DIR, else the folder for temporary files.

    At most NUM_KEPT lines; `first_op` is marked with ">". OSError if it cannot be written.
    """
    folder = os.environ.get(FOLDER_VARIABLE) or tempfile.gettempdir()
    handle, path = tempfile.mkstemp(".txt", f"hicache-rank{rank}-tick{epoch}-", folder)
    with os.fdopen(handle, "w", encoding="utf-8", errors="backslashreplace") as file:
        file.write(f"{text}\nrank {rank}, process {os.getpid()}, {log.num_ops} operations so far\n")
        for op in range(log.first, log.num_ops):
            mark = ">" if op == first_op else " "
            file.write(f"{mark} {op} {log.hash_after(op):016x} {log.text(op)}\n")
    return Path(path)
