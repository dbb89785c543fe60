"""Prints the branch coverage of each folder that was measured; exit code 1 below MIN_COVERED.

Of branches alone: the percentage of `coverage report` is of lines and branches together.
"""

import json
import sys
from collections import Counter
from pathlib import PurePath

MIN_COVERED = 0.95


def main(path: str) -> int:
    with open(path) as file:
        files = json.load(file)["files"]
    num_branches: Counter[str] = Counter()
    num_covered: Counter[str] = Counter()
    for name, measured in files.items():
        folder = str(PurePath(name).parent)
        num_branches[folder] += measured["summary"]["num_branches"]
        num_covered[folder] += measured["summary"]["covered_branches"]
    for folder, count in sorted(num_branches.items()):
        share = num_covered[folder] / count if count else 1.0
        print(f"{folder}: {num_covered[folder]} of {count} branches, {share:.1%}")
    total = sum(num_branches.values())
    share = sum(num_covered.values()) / total if total else 0.0
    low = [f for f, count in num_branches.items() if num_covered[f] < MIN_COVERED * count]
    print(f"all: {share:.1%}; {low or 'no folder'} below {MIN_COVERED:.0%}")
    return int(bool(low) or total == 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
