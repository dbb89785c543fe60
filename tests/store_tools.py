"""A SegmentStore of numbered pages, and ways into its files that know nothing of its code."""

import random
import subprocess
import sys
from pathlib import Path
from subprocess import PIPE

from hicache_ext.storage import Durability, SegmentStore, StoreNamespace

PAGE_BYTES = 5000
SLOT_BYTES = 8192
HEADER_BYTES, RECORD_BYTES = 88, 80  # of an index
BASE = StoreNamespace("gemma", "r1", "float32", {"num_layers": 18, "num_kv": 2}, 16, "0/2")


def open_store(root: Path, namespace: StoreNamespace = BASE, **options) -> SegmentStore:
    return SegmentStore(root, {"full": namespace}, {"full": PAGE_BYTES}, **options)


def key_of(i: int) -> bytes:
    return random.Random(i).randbytes(32)


def page_of(i: int) -> bytes:
    return random.Random(-i - 1).randbytes(PAGE_BYTES)


def put(store: SegmentStore, numbers, limit=None) -> list[bool]:
    pages = [memoryview(page_of(i)) for i in numbers]
    return store.write_from("full", [key_of(i) for i in numbers], pages, limit)


def get_all(store: SegmentStore, numbers) -> list[bytes | None]:
    """In one batch; buffers are poisoned first, so stale bytes show."""
    buffers = [bytearray(b"\xa5" * PAGE_BYTES) for _ in numbers]
    keys = [key_of(i) for i in numbers]
    found = store.read_into("full", keys, [memoryview(b) for b in buffers])
    return [bytes(b) if ok else None for ok, b in zip(found, buffers, strict=True)]


def get(store: SegmentStore, i: int) -> bytes | None:
    return get_all(store, [i])[0]


def files(root: Path, suffix: str) -> list[Path]:
    """The "pages" or the "index" files of all shards."""
    return sorted(root.glob(f"full-*/shard-*/{'index' if suffix == 'index' else '*.pages'}"))


def only(root: Path, suffix: str) -> Path:
    (path,) = files(root, suffix)
    return path


def slot_of(root: Path, i: int) -> tuple[Path, int]:
    """The pages file and the offset at which page `i` lies there."""
    (found,) = [
        (p, at) for p in files(root, "pages") if (at := p.read_bytes().find(page_of(i))) >= 0
    ]
    return found


def record_of(root: Path, i: int) -> tuple[Path, int]:
    """The index file and the offset of the first record of page `i`."""
    found = [(p, at) for p in files(root, "index") if (at := p.read_bytes().find(key_of(i))) >= 0]
    path, at = found[0]
    return path, at - (at - HEADER_BYTES) % RECORD_BYTES


def overwrite(path: Path, offset: int, data: bytes) -> None:
    """In place: whoever has the file open sees it."""
    with open(path, "r+b") as file:
        file.seek(offset)
        file.write(data)


def flip(path: Path, offset: int, bit: int) -> None:
    """Flips one bit of a file; a second time flips it back."""
    overwrite(path, offset, bytes([path.read_bytes()[offset] ^ 1 << bit]))


CHILD = """
import random, sys
sys.path[:0] = {paths!r}
from pathlib import Path
from hicache_ext.storage import Durability
from store_tools import *
store = open_store(Path({root!r}), durability=Durability({durability!r}))
print("open", flush=True)
{body}
"""


def start(root: Path, body: str, durability: Durability = Durability.NONE) -> subprocess.Popen:
    """A process with a store of its own on the folder, that runs this code."""
    paths = [path for path in sys.path if path]
    text = CHILD.format(paths=paths, root=str(root), durability=durability.value, body=body)
    child = subprocess.Popen([sys.executable, "-c", text], stdin=PIPE, stdout=PIPE, text=True)
    assert child.stdout.readline() == "open\n"
    return child
