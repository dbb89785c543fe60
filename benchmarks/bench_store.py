"""Every page store against its yardsticks; each part also runs alone: benchmarks.store_NAME.

The pages of the demo, the I/O engine and SegmentStore against fio, files and LMDB, and the remote
stores against the plain client of each. A part whose package is missing is left out, and says so;
--only leaves out what it does not name.
"""

import sys
from collections.abc import Sequence
from importlib import import_module

from benchmarks.harness import Table, parse_args

PARTS = ("demo", "engine", "segment", "redis", "objects", "mooncake")


def main(quick: bool, parts: Sequence[str] = PARTS) -> Table:
    table = Table("Page stores")
    for name in parts:
        try:
            part = import_module(f"benchmarks.store_{name}")
        except ImportError as error:
            print(f"without {name}: {error}", file=sys.stderr)
            continue
        part.add_rows(table, quick)
    return table


if __name__ == "__main__":
    args = parse_args(__doc__, parts=PARTS)
    sys.exit(main(args.quick, args.only).finish(args.out, "bench_store"))
