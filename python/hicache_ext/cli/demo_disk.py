"""Cold reads: drop files from the page cache, and time `dd` on as many bytes."""

import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import IO


class ColdFiles:
    """The files of a store folder, and one file with the same bytes beside it."""

    def __init__(self, root: Path) -> None:
        self.paths = sorted(path for path in root.rglob("*") if path.is_file())
        self._joined = root.parent / f"{root.name}.joined"
        with self._joined.open("wb") as joined:
            for path in self.paths:
                with path.open("rb") as page:
                    shutil.copyfileobj(page, joined)

    def drop(self) -> None:
        """Write the files back and drop them from the page cache (a hint; tmpfs ignores it)."""
        for path in (*self.paths, self._joined):
            handle = os.open(path, os.O_RDONLY)
            try:
                os.fsync(handle)
                os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
            finally:
                os.close(handle)

    def dd_s(self, num_bytes: int) -> dict[str, float]:
        """Seconds that `dd` says it took to read `num_bytes` cold: "files", the store's own files
        one after the other, and "joined", one file. Empty without dd.
        """
        dd = shutil.which("dd")
        if dd is None or num_bytes == 0:
            return {}
        count = [f"count={-(-num_bytes // (1 << 20))}", "bs=1M", "of=/dev/null"]
        self.drop()
        with subprocess.Popen(["cat", *map(str, self.paths)], stdout=subprocess.PIPE) as cat:
            files = _dd_s([dd, "iflag=fullblock", *count], cat.stdout)
        return {"files": files, "joined": _dd_s([dd, f"if={self._joined}", *count], None)}


def _dd_s(command: list[str], source: IO[bytes] | None) -> float:
    """Run dd and read the seconds from its report; ValueError if it gives none."""
    environment = {**os.environ, "LC_ALL": "C"}
    done = subprocess.run(command, stdin=source, stderr=subprocess.PIPE, text=True, env=environment)
    if source is not None:
        source.close()  # cat has more than was asked for
    found = re.search(r"copied, ([0-9.e+-]+) s", done.stderr)
    if found is None:
        raise ValueError(f"{command} said {done.stderr!r}")
    return float(found.group(1))
