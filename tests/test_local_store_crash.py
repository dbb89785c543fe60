"""LocalStore under processes that share a folder, writers that are killed, and random damage."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from test_local_store import PAGE_BYTES, get, key_of, open_store, page_of, put

from hicache_ext.storage import Durability
from hicache_ext.storage.page_file import HEADER_BYTES

NUM_KEYS = 200

CHILD = """
import os, random, sys
sys.path[:0] = {paths!r}
from pathlib import Path
from hicache_ext.storage import Durability
from test_local_store import key_of, open_store, put
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
    child = subprocess.Popen([sys.executable, "-c", text], stdout=subprocess.PIPE, text=True)
    assert child.stdout.readline() == "open\n"
    return child


@pytest.fixture
def root(tmp_path) -> Path:
    return tmp_path / "store"


def check_after_kill(root: Path) -> int:
    """Reopen: every page is whole or a miss, nothing torn lies about. Returns the pages found."""
    store = open_store(root)
    pages = [get(store, i) for i in range(NUM_KEYS)]
    assert all(page in (None, page_of(i)) for i, page in enumerate(pages))
    assert store.stats()["num_corrupt_pages"] == 0, "a rename published a page before its bytes"
    assert not list(root.glob("full-*/*/.*")), "a temporary file outlived its writer"
    store.close()
    assert not list(root.glob("writer-*")), "a dead writer is remembered"
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
    assert [get(store, i) for i in acknowledged] == [page_of(i) for i in acknowledged]


@pytest.mark.parametrize("call", ["write", "rename"])
def test_killed_inside_a_write(root: Path, call: str) -> None:
    """Stopped half way through the payload, and between the last byte and the rename."""
    if call == "write":
        body = "real = os.writev\nos.writev = lambda fd, b: (real(fd, [b[0], b[1][:999]]), stop())"
    else:
        body = "os.rename = lambda *a, **k: stop()"
    stop = "import os, signal\ndef stop(): os.kill(os.getpid(), signal.SIGKILL)\n"
    child = start(root, stop + body + "\nput(store, [1])")
    child.communicate()
    assert child.returncode == -signal.SIGKILL
    assert len(list(root.glob("full-*/*/.*"))) == 1, "the fault did not strike where it should"
    assert check_after_kill(root) == 0


def test_two_processes_share_a_folder(root: Path) -> None:
    """Readers here while two others write and remove: pages of other processes are found."""
    children = [start(root, WRITE_FOR_EVER.format(seed=seed, num_keys=NUM_KEYS)) for seed in (1, 2)]
    store = open_store(root)
    num_hits = 0
    for i in range(1500):
        page = get(store, i % NUM_KEYS)
        assert page in (None, page_of(i % NUM_KEYS))
        num_hits += page is not None
    for child in children:
        child.kill()
        child.communicate()
    assert num_hits > 0 and store.stats()["num_corrupt_pages"] == 0


def test_exists_sees_what_another_store_wrote_and_removed(root: Path) -> None:
    one, two = open_store(root), open_store(root)
    put(one, [1, 2])
    keys = [key_of(1), key_of(2)]
    assert two.exists("full", keys) == [True, True]
    one.remove("full", keys[:1])
    assert get(two, 1) is None  # exists may have said yes; the read tells the truth
    assert two.exists("full", keys) == [False, True]
    assert put(two, [1]) == [True] and get(one, 1) == page_of(1)


def test_a_write_does_not_believe_its_memory(root: Path) -> None:
    one, two = open_store(root), open_store(root)
    put(one, [1])
    two.clear()
    assert put(one, [1]) == [True]
    assert get(one, 1) == page_of(1)


def fuzz(root: Path, seed: int, num_ops: int) -> None:
    """Against a dict: every page is the dict's or, where it was damaged, a miss."""
    rng = random.Random(seed)
    store, expected, damaged = open_store(root), {}, set()
    for _ in range(num_ops):
        numbers = [rng.randrange(30) for _ in range(rng.randrange(1, 5))]
        action = rng.random()
        if action < 0.3:
            keys = [key_of(i) for i in numbers]
            pages = [memoryview(page_of(i)) for i in numbers]
            assert store.write_from("full", keys, pages) == [True] * len(numbers)
            expected |= {i: page_of(i) for i in numbers}
        elif action < 0.4:
            removed = store.remove("full", [key_of(i) for i in numbers])
            assert removed == len({i for i in numbers if i in expected})
            for i in numbers:
                expected.pop(i, None)
                damaged.discard(i)
        elif action < 0.5:
            store.close()
            store = open_store(root, durability=rng.choice(list(Durability)))
        elif action < 0.65:
            victim = rng.choice(sorted(expected)) if expected else None
            if victim is not None and victim not in damaged:
                spoil(root, victim, rng)
                damaged.add(victim)
        elif action < 0.67:
            store.clear()
            expected.clear()
            damaged.clear()
        else:
            for i in numbers:
                page = get(store, i)
                if i in damaged:
                    assert page is None
                    del expected[i]
                    damaged.discard(i)
                assert page == expected.get(i)
                assert store.exists("full", [key_of(i)]) == [i in expected]
    store.close()


def spoil(root: Path, number: int, rng: random.Random) -> None:
    """Flip one bit (the length stays, so a later write keeps the file), in header or payload."""
    name = key_of(number).hex()
    (path,) = root.glob(f"full-*/{name[0]}/{name}")
    with open(path, "r+b") as file:
        size = os.fstat(file.fileno()).st_size
        offset = rng.choice([rng.randrange(HEADER_BYTES), rng.randrange(size)])
        file.seek(offset)
        byte = file.read(1)[0] ^ 1 << rng.randrange(8)
        file.seek(offset)
        file.write(bytes([byte]))


@pytest.mark.parametrize("seed", range(6))
def test_fuzz_against_a_dict(root: Path, seed: int) -> None:
    fuzz(root, seed, 150)


@pytest.mark.long
@pytest.mark.parametrize("seed", range(100, 130))
def test_fuzz_against_a_dict_for_long(root: Path, seed: int) -> None:
    fuzz(root, seed, 1500)


def test_fuzz_truncation_and_growth(root: Path) -> None:
    """A file of any other length is a miss or, if only bytes were added behind it, still itself."""
    store, rng = open_store(root), random.Random(9)
    for _ in range(60):
        put(store, [1])
        name = key_of(1).hex()
        (path,) = root.glob(f"full-*/{name[0]}/{name}")
        size = rng.randrange(HEADER_BYTES + PAGE_BYTES)
        os.truncate(path, size)
        assert get(store, 1) is None, f"{size=}"
        put(store, [1])
        with open(path, "ab") as file:
            file.write(b"x" * rng.randrange(1, 9000))
        assert get(store, 1) in (None, page_of(1))
        assert put(store, [1]) == [True] and get(store, 1) == page_of(1)
