"""SegmentStore against a dict: two stores here, a third in a process of its own, random damage.

A failing seed is printed; HICACHE_FUZZ_SEED=n replays it alone.
"""

import os
import random
from pathlib import Path

import pytest
from store_tools import (
    PAGE_BYTES,
    SLOT_BYTES,
    files,
    flip,
    get_all,
    key_of,
    open_store,
    page_of,
    put,
    start,
)

from hicache_ext.storage import Durability

NUM_KEYS = 30
SEGMENT_BYTES = 16 * SLOT_BYTES

SERVE = """
from test_segment_store_fuzz import perform
while line := sys.stdin.readline():
    verb, *numbers = line.split()
    print(perform(store, verb, [int(i) for i in numbers]), flush=True)
"""


def perform(store, verb: str, numbers: list[int]) -> str:
    """One call and its result in words, so that a store in another process is asked alike."""
    keys = [key_of(i) for i in numbers]
    if verb == "get":
        found = zip(numbers, get_all(store, numbers), strict=True)
        return " ".join(
            "miss" if p is None else "page" if p == page_of(i) else "WRONG" for i, p in found
        )
    if verb == "put":
        return " ".join(map(str, put(store, numbers)))
    return str(store.remove("full", keys) if verb == "remove" else store.clear())


class Stores:
    """Two stores here and one elsewhere, on one folder."""

    def __init__(self, root: Path, rng: random.Random) -> None:
        self._root, self._rng = root, rng
        self._here = [open_store(root, segment_bytes=SEGMENT_BYTES), open_store(root)]
        self._there = start(root, SERVE)

    def ask(self, verb: str, numbers=()) -> str:
        """Any of them."""
        store = self._rng.choice([*self._here, None])
        if store is not None:
            return perform(store, verb, list(numbers))
        print(verb, *numbers, file=self._there.stdin, flush=True)
        return self._there.stdout.readline().strip()

    def reopen(self) -> None:
        i = self._rng.randrange(2)
        self._here[i].close()
        self._here[i] = open_store(self._root, durability=self._rng.choice(list(Durability)))

    def kill_and_restart(self) -> None:
        self._there.kill()
        self._there.communicate()
        self._there = start(self._root, SERVE)

    def close(self) -> None:
        self._there.kill()
        self._there.communicate()
        for store in self._here:
            assert store.stats()["num_read_errors"] == store.stats()["num_write_errors"] == 0
            store.close()


def spoil(root: Path, number: int, rng: random.Random) -> None:
    """Flip one bit of the page wherever it lies, dropped copies included."""
    for path in files(root, "pages"):
        content = path.read_bytes()
        wanted, at = page_of(number), -1
        while (at := content.find(wanted, at + 1)) >= 0:
            flip(path, at + rng.randrange(PAGE_BYTES), rng.randrange(8))


def fuzz(root: Path, seed: int, num_ops: int) -> None:
    """Every page is the dict's or, where it was damaged, a miss."""
    rng = random.Random(seed)
    stores = Stores(root, rng)
    held: set[int] = set()
    damaged: set[int] = set()  # of those held
    for _ in range(num_ops):
        numbers = [rng.randrange(NUM_KEYS) for _ in range(rng.randrange(1, 9))]
        action = rng.random()
        if action < 0.3:
            assert stores.ask("put", numbers) == " ".join(["True"] * len(numbers))
            held |= set(numbers)
        elif action < 0.4:
            assert stores.ask("remove", numbers) == str(len(held & set(numbers)))
            held -= set(numbers)
            damaged -= set(numbers)
        elif action < 0.46:
            stores.reopen()
        elif action < 0.47:
            stores.kill_and_restart()
        elif action < 0.6 and held - damaged:
            victim = rng.choice(sorted(held - damaged))
            spoil(root, victim, rng)
            damaged.add(victim)
        elif action < 0.62:
            stores.ask("clear")
            held, damaged = set(), set()
        else:
            expected = ["page" if i in held - damaged else "miss" for i in numbers]
            assert stores.ask("get", numbers) == " ".join(expected)
            held -= damaged & set(numbers)
            damaged -= set(numbers)
    stores.close()


def run_seeds(root: Path, seeds, num_ops: int) -> None:
    fixed = os.environ.get("HICACHE_FUZZ_SEED")
    for seed in [int(fixed)] if fixed else seeds:
        try:
            fuzz(root / str(seed), seed, num_ops)
        except BaseException:
            print(f"\nHICACHE_FUZZ_SEED={seed} replays this")
            raise


def test_fuzz_against_a_dict(tmp_path) -> None:
    run_seeds(tmp_path, range(4), 200)


@pytest.mark.long
def test_fuzz_against_a_dict_for_long(tmp_path) -> None:
    run_seeds(tmp_path, range(100, 130), 1500)


def scribble(path: Path, rng: random.Random) -> None:
    """Flipped bits, a cut, zeros, bytes behind the end, or bytes from elsewhere in the file."""
    content = bytearray(path.read_bytes())
    if not content:
        return
    at, num_bytes = rng.randrange(len(content)), rng.randrange(1, 200)
    how = rng.randrange(5)
    if how == 0:
        for _ in range(rng.randrange(1, 5)):
            content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
    elif how == 1:
        del content[at:]
    elif how == 2:
        content[at : at + num_bytes] = bytes(len(content[at : at + num_bytes]))
    elif how == 3:
        content += rng.randbytes(num_bytes)
    else:
        source = rng.randrange(len(content))
        piece = content[source : source + num_bytes]
        content[at : at + len(piece)] = piece
    path.write_bytes(content)


def scribble_and_reopen(root: Path, seed: int, num_rounds: int) -> None:
    rng = random.Random(seed)
    for _ in range(num_rounds):
        store = open_store(root)
        numbers = [rng.randrange(NUM_KEYS) for _ in range(10)]
        assert put(store, numbers) == [True] * 10
        store.close()
        for _ in range(rng.randrange(1, 4)):
            scribble(rng.choice(files(root, "pages") + files(root, "index")), rng)
        store = open_store(root)
        num_corrupt = -1
        while num_corrupt != (num_corrupt := store.stats()["num_corrupt_pages"]):
            # A page whose record was lost was stored again: it may have two damaged copies.
            pages = get_all(store, range(NUM_KEYS))
            assert all(page in (None, page_of(i)) for i, page in enumerate(pages))
        assert put(store, range(NUM_KEYS)) == [True] * NUM_KEYS
        assert get_all(store, range(NUM_KEYS)) == [page_of(i) for i in range(NUM_KEYS)]
        if rng.random() < 0.1:
            store.clear()
        store.close()


@pytest.mark.parametrize("seed", range(3))
def test_random_bytes_in_any_file(tmp_path, seed: int) -> None:
    scribble_and_reopen(tmp_path / "store", seed, 25)


@pytest.mark.long
@pytest.mark.parametrize("seed", range(100, 110))
def test_random_bytes_in_any_file_for_long(tmp_path, seed: int) -> None:
    scribble_and_reopen(tmp_path / "store", seed, 400)
