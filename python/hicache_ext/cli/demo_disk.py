"""Cold reads: drop files from the page cache, and time `dd` on as many bytes."""

import os
import re
import shutil
import subprocess
from pathlib import Path


class ColdFiles:
    """The files of a store folder, and one file with the same bytes beside it."""

    def __init__(self, root: Path) -> None:
        self.paths = sorted(path for path in root.rglob("*") if path.is_file())
        self._joined = root.parent / f"{root.name}.joined"
        with self._joined.open("wb") as joined:
            for path in self.paths:
                with path.open("rb") as part:
                    shutil.copyfileobj(part, joined)

    def drop(self) -> None:
        """Write the files back and drop them from the page cache (a hint; tmpfs ignores it)."""
        for path in (*self.paths, self._joined):
            handle = os.open(path, os.O_RDONLY)
            try:
                os.fsync(handle)
                os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
            finally:
                os.close(handle)

    def dd_s(self, num_bytes: int) -> float | None:
        """Seconds that `dd` says it took to read `num_bytes` of the one file, cold. None if there
        is no dd, or nothing to read.
        """
        dd = shutil.which("dd")
        if dd is None or num_bytes == 0:
            return None
        self.drop()
        count = -(-num_bytes // (1 << 20))
        command = [dd, f"if={self._joined}", "of=/dev/null", "bs=1M", f"count={count}"]
        environment = {**os.environ, "LC_ALL": "C"}
        done = subprocess.run(command, stderr=subprocess.PIPE, text=True, env=environment)
        found = re.search(r"copied, ([0-9.e+-]+) s", done.stderr)
        if found is None:
            raise ValueError(f"{command} said {done.stderr!r}")
        return float(found.group(1))
