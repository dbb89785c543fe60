"""LocalStore and writers that are killed: what they acknowledged is there, nothing torn is."""

import os
import random
import secrets
import signal
import subprocess
import sys
import time
from pathlib import Path
from subprocess import PIPE

import pytest
from store_tools import (
    HEADER_BYTES,
    RECORD_BYTES,
    SLOT_BYTES,
    files,
    get,
    get_all,
    key_of,
    only,
    open_store,
    page_of,
    put,
)

from hicache_ext.storage import Durability, segment

NUM_KEYS = 200

CHILD = """
import os, random, signal, sys
sys.path[:0] = {paths!r}
from pathlib import Path
from hicache_ext.storage import Durability
from store_tools import *
def stop(*args): os.kill(os.getpid(), signal.SIGKILL)
store = open_store(Path({root!r}), durability=Durability({durability!r}))
print("open", flush=True)
{body}
"""

WRITE_FOR_EVER = """
rng = random.Random({seed})
while True:
    numbers = rng.sample(range({num_keys}), 8)
    if rng.random() < 0.4:
        store.remove("full", [key_of(i) for i in numbers])
    else:
        assert all(put(store, numbers))
"""


def start(root: Path, body: str, durability: Durability = Durability.NONE) -> subprocess.Popen:
    paths = [path for path in sys.path if path]
    text = CHILD.format(paths=paths, root=str(root), durability=durability.value, body=body)
    child = subprocess.Popen([sys.executable, "-c", text], stdin=PIPE, stdout=PIPE, text=True)
    assert child.stdout.readline() == "open\n"
    return child


@pytest.fixture
def root(tmp_path) -> Path:
    return tmp_path / "store"


def check_after_kill(root: Path) -> int:
    """Reopen: every page is whole or a miss, and the next writer goes on with the dead one's
    segment. Returns the pages found."""
    store = open_store(root)
    pages = get_all(store, range(NUM_KEYS))
    assert all(page in (None, page_of(i)) for i, page in enumerate(pages))
    assert store.stats()["num_corrupt_pages"] == 0, "an index was ahead of its pages"
    assert put(store, [NUM_KEYS]) == [True] and get(store, NUM_KEYS) == page_of(NUM_KEYS)
    store.close()
    assert len(files(root, "index")) == len(files(root, "pages"))
    full = segment.SEGMENT_BYTES // SLOT_BYTES * SLOT_BYTES
    assert sum(path.stat().st_size < full for path in files(root, "pages")) <= 1
    return sum(page is not None for page in pages)


def kill_in_a_loop(root: Path, num_kills: int, seed: int) -> None:
    rng = random.Random(seed)
    num_found = 0
    for _ in range(num_kills):
        body = WRITE_FOR_EVER.format(seed=rng.random(), num_keys=NUM_KEYS)
        child = start(root, body)
        time.sleep(rng.uniform(0, 0.05))
        child.kill()
        child.communicate()
        assert child.returncode == -signal.SIGKILL
        num_found += check_after_kill(root)
    assert num_found > 0


def test_no_torn_page_after_a_kill(root: Path) -> None:
    kill_in_a_loop(root, 8, seed=1)


@pytest.mark.long
def test_no_torn_page_after_many_kills(root: Path) -> None:
    kill_in_a_loop(root, 150, seed=2)


def test_an_acknowledged_page_outlives_its_killed_writer(root: Path) -> None:
    body = "for i in range(10**6):\n    assert put(store, [i]) == [True]\n    print(i, flush=True)"
    child = start(root, body)
    acknowledged = [int(child.stdout.readline()) for _ in range(30)]
    child.kill()
    child.communicate()
    store = open_store(root)
    assert get_all(store, acknowledged) == [page_of(i) for i in acknowledged]


FAULTS = {
    "first file created": "os.open = lambda *a, r=os.open, **k: (r(*a, **k), stop())",
    "before the header": "os.write = stop",
    "half a header": "os.write = lambda fd, d, w=os.write: (w(fd, d[:30]), stop())",
    "half a page": "os.pwritev = lambda fd, b, at: (os.pwrite(fd, b[0][:999], at), stop())",
    "before the index": "os.pwritev = lambda *a, w=os.pwritev: (w(*a), stop())",
}


@pytest.mark.parametrize("fault", FAULTS)
def test_killed_inside_the_first_write(root: Path, fault: str) -> None:
    child = start(root, FAULTS[fault] + "\nput(store, [1])")
    child.communicate()
    assert child.returncode == -signal.SIGKILL
    assert files(root, "index"), "the fault did not strike where it should"
    assert check_after_kill(root) == 0
    assert get(open_store(root), NUM_KEYS) == page_of(NUM_KEYS)


@pytest.mark.parametrize("num_bytes", [1, RECORD_BYTES - 1, RECORD_BYTES, 2 * RECORD_BYTES + 5])
def test_killed_inside_an_append_to_the_index(root: Path, num_bytes: int) -> None:
    fault = f"os.write = lambda fd, data, w=os.write: (w(fd, data[:{num_bytes}]), stop())"
    child = start(root, f"put(store, [0, 1])\n{fault}\nput(store, [2, 3, 4])")
    child.communicate()
    assert only(root, "index").stat().st_size == HEADER_BYTES + 2 * RECORD_BYTES + num_bytes
    assert check_after_kill(root) == 2 + num_bytes // RECORD_BYTES
    check_after_kill(root)


def test_an_index_cut_at_every_byte(root: Path) -> None:
    """What is whole is found, the rest written again; the reader never sees the cut."""
    store = open_store(root)
    put(store, [0, 1, 2])
    store.close()
    index, pages = only(root, "index"), only(root, "pages")
    content, payload = index.read_bytes(), pages.read_bytes()
    for num_bytes in range(len(content)):
        for path in files(root, "index") + files(root, "pages"):
            path.unlink()
        index.write_bytes(content[:num_bytes])
        pages.write_bytes(payload)
        store = open_store(root)
        num_whole = max(0, num_bytes - HEADER_BYTES) // RECORD_BYTES
        found = [page_of(i) if i < num_whole else None for i in range(3)]
        assert get_all(store, range(3)) == found, f"{num_bytes=}"
        assert put(store, [2, 1, 0, 3]) == [True] * 4
        store.close()
        store = open_store(root)
        assert get_all(store, range(4)) == [page_of(i) for i in range(4)], f"{num_bytes=}"
        assert store.stats()["num_corrupt_pages"] == 0 and len(files(root, "index")) == 1
        store.close()


def test_a_slot_that_another_index_calls_dead_is_not_used_again(root: Path, monkeypatch) -> None:
    """A power failure takes the end of one index and spares the tombstone in another."""
    names = iter([1, 2])
    monkeypatch.setattr(secrets, "randbits", lambda bits: next(names))
    one, two = open_store(root), open_store(root)
    put(one, [1, 2])
    two.remove("full", [key_of(2)])
    one.close()
    two.close()
    index = files(root, "index")[0]
    os.truncate(index, index.stat().st_size - RECORD_BYTES)
    store = open_store(root)
    assert put(store, [3]) == [True]
    assert get_all(store, [1, 2, 3]) == [page_of(1), None, page_of(3)]
    assert get_all(open_store(root), [1, 2, 3]) == [page_of(1), None, page_of(3)]


@pytest.mark.parametrize("what", ["no header", "pages only"])
def test_litter_of_the_dead_is_collected_and_a_living_one_s_is_not(root: Path, what: str) -> None:
    open_store(root).close()
    (folder,) = root.glob("full-*")
    litter = [folder / f"{7:016x}.pages", folder / f"{8:016x}.pages", folder / f"{8:016x}.index"]
    dead = litter[1:] if what == "no header" else litter[:1]
    for path in dead:
        path.write_bytes(b"torn")
    child = start(
        root, "os.write = lambda *a: (print('in', flush=True), signal.pause())\nput(store, [1])"
    )
    assert child.stdout.readline() == "in\n"  # holds a segment that has no header yet
    store = open_store(root)
    assert not any(path.exists() for path in dead)
    assert len(files(root, "index")) == len(files(root, "pages")) == 1
    assert put(store, [1]) == [True] and len(files(root, "index")) == 2
    child.kill()
    child.communicate()
    assert get(open_store(root), 1) == page_of(1) and len(files(root, "index")) == 1
