"""PageAllocator against a plain model, and every way to misuse it."""

import random
from collections import deque

import numpy as np
import pytest

from hicache_ext.allocator import LEGAL_MOVES, PageAllocator, PageState
from hicache_ext.errors import CapacityError, HiCacheError, PageIndexError

FREE, RESERVED, IO, ATTACHED = PageState


class PlainLedger:
    """The same ledger as plainly as it can be written: a FIFO of free ids and a dict of states."""

    def __init__(self, num_pages: int) -> None:
        self.fifo = deque(range(num_pages))
        self.states = dict.fromkeys(range(num_pages), FREE)

    def alloc(self, num_pages: int, state: PageState) -> list[int] | None:
        if num_pages > len(self.fifo):
            return None
        ids = [self.fifo.popleft() for _ in range(num_pages)]
        self.states.update(dict.fromkeys(ids, state))
        return ids

    def legal(self, ids: list[int], to: PageState) -> bool:
        if any(page_id not in self.states for page_id in ids) or len(set(ids)) != len(ids):
            return False
        if to == FREE:
            return all(self.states[page_id] in (RESERVED, ATTACHED) for page_id in ids)
        return all(to in LEGAL_MOVES[self.states[page_id]] for page_id in ids)

    def move(self, ids: list[int], to: PageState) -> None:
        self.states.update(dict.fromkeys(ids, to))
        if to == FREE:
            self.fifo.extend(ids)


def snapshot(allocator: PageAllocator) -> tuple[object, ...]:
    states = [allocator.state(page_id) for page_id in range(allocator.capacity)]
    return states, allocator.counts(), allocator._free_list()


def some_ids(rng: random.Random, model: PlainLedger, to: PageState) -> list[int]:
    """Mostly legal for the move `to`; sometimes spoilt by a wrong state, a stranger or a double."""
    capacity = len(model.states)
    fitting = [i for i in model.states if model.legal([i], to)]
    ids = rng.sample(fitting, rng.randint(0, len(fitting)))
    spoil = rng.random()
    if spoil < 0.1 and ids:
        ids.insert(rng.randint(0, len(ids)), rng.choice(ids))
    elif spoil < 0.2:
        ids.insert(rng.randint(0, len(ids)), rng.choice([-1, capacity, capacity + 7, -capacity]))
    elif spoil < 0.4 and capacity:
        ids.insert(rng.randint(0, len(ids)), rng.randrange(capacity))
    return ids


def change(allocator: PageAllocator, ids: list[int], to: PageState) -> None:
    if to == FREE:
        allocator.free(ids)
    else:
        allocator.move(ids, to)


@pytest.mark.parametrize("seed", range(60))
def test_fuzz_against_plain_ledger(seed: int) -> None:
    rng = random.Random(seed)
    capacity = rng.choice([0, 1, 2, 7, 16, 40])
    model, twin = PlainLedger(capacity), PageAllocator(capacity, "twin")
    allocator = PageAllocator(capacity, "fuzz")
    for step in range(120):
        where = f"replay: seed {seed}, step {step}"
        if rng.random() < 0.4:
            num_pages = rng.randint(0, capacity // 2 + 1)
            state = rng.choice([RESERVED, IO, ATTACHED])
            expected = model.alloc(num_pages, state)
            assert allocator.alloc(num_pages, state) == expected, where
            assert twin.alloc(num_pages, state) == expected, where  # same calls, same ids
        else:
            to = rng.choice(list(PageState))
            ids = some_ids(rng, model, to)
            if model.legal(ids, to):
                model.move(ids, to)
                change(allocator, ids, to)
                change(twin, ids, to)
            else:
                before = snapshot(allocator)
                with pytest.raises((CapacityError, PageIndexError)):
                    change(allocator, ids, to)
                assert snapshot(allocator) == before, where
        allocator.check_integrity()
        states, counts, free_list = snapshot(allocator)
        assert states == [model.states[i] for i in range(capacity)], where
        assert free_list == list(model.fifo), where
        assert counts == {s: list(model.states.values()).count(s) for s in PageState}, where


def test_full_gives_none_and_takes_nothing() -> None:
    allocator = PageAllocator(3, "full")
    assert allocator.alloc(2) == [0, 1]
    before = snapshot(allocator)
    assert allocator.alloc(2) is None
    assert snapshot(allocator) == before
    assert allocator.alloc(1) == [2]
    assert allocator.alloc(1) is None
    assert allocator.alloc(0) == []


def test_first_freed_is_first_reused() -> None:
    allocator = PageAllocator(4, "full")
    ids = allocator.alloc(4)
    allocator.free([2, 0])
    allocator.free([3])
    assert ids == [0, 1, 2, 3] and allocator.alloc(3) == [2, 0, 3]


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda a: a.free([0]), CapacityError, ["'full'", "position 0", "page 0", "double free"]),
        (lambda a: a.free([4, 5]), CapacityError, ["position 1", "page 5", "IO"]),
        (lambda a: a.free([4, 8]), PageIndexError, ["position 1", "page 8", "0..7"]),
        (lambda a: a.free([-1]), PageIndexError, ["page -1"]),
        (lambda a: a.free([4, 6, 4]), PageIndexError, ["position 2", "page 4", "twice"]),
        (lambda a: a.free(["4"]), PageIndexError, ["integers"]),
        (lambda a: a.free([4.0]), PageIndexError, ["integers"]),
        (lambda a: a.move([0], RESERVED), CapacityError, ["move to RESERVED", "page 0", "FREE"]),
        (lambda a: a.move([4], FREE), CapacityError, ["move to FREE", "page 4", "none"]),
        (lambda a: a.move([4, 6], ATTACHED), CapacityError, ["position 1", "page 6", "ATTACHED"]),
        (lambda a: a.move([6], IO), CapacityError, ["page 6", "ATTACHED"]),
        (lambda a: a.move([5], IO), CapacityError, ["page 5", "IO"]),
        (lambda a: a.state(8), PageIndexError, ["page 8"]),
        (lambda a: a.alloc(-1), CapacityError, ["alloc(-1"]),
        (lambda a: a.alloc(1, FREE), CapacityError, ["FREE"]),
    ],
)
def test_misuse_is_typed_names_values_and_changes_nothing(call, error, words) -> None:
    allocator = PageAllocator(8, "full")
    allocator.alloc(8)
    allocator.move([5], IO)
    allocator.move([6], ATTACHED)
    allocator.free([0, 1])
    before = snapshot(allocator)
    with pytest.raises(error) as raised:
        call(allocator)
    assert isinstance(raised.value, HiCacheError)
    assert all(word in str(raised.value) for word in words), str(raised.value)
    assert snapshot(allocator) == before
    allocator.check_integrity()


def test_page_in_io_is_freed_only_after_it_left_io() -> None:
    allocator = PageAllocator(2, "swa")
    ids = allocator.alloc(2, IO)
    with pytest.raises(CapacityError, match="IO"):
        allocator.free(ids)
    allocator.move(ids, RESERVED)
    allocator.free(ids)
    assert allocator.num_free == 2


def test_numpy_ids_and_iterators_are_ids() -> None:
    allocator = PageAllocator(4, "full")
    ids = np.array(allocator.alloc(3), dtype=np.int64)
    allocator.move(ids, ATTACHED)
    assert allocator.pages_in(ATTACHED) == [0, 1, 2]
    allocator.free(iter(ids))
    assert allocator.counts() == {FREE: 4, RESERVED: 0, IO: 0, ATTACHED: 0}


def test_negative_capacity() -> None:
    with pytest.raises(CapacityError, match="-1"):
        PageAllocator(-1, "full")


@pytest.mark.parametrize("damage", ["count", "state", "double"])
def test_check_integrity_finds_damage(damage: str) -> None:
    allocator = PageAllocator(6, "full")
    allocator.alloc(2)
    allocator.check_integrity()
    if damage == "count":
        allocator._counts[IO] += 1
    elif damage == "state":
        allocator._states[3] = ATTACHED
    else:
        allocator._ring[4] = 3
    with pytest.raises(CapacityError, match="pool 'full'"):
        allocator.check_integrity()


def test_cost_does_not_depend_on_capacity() -> None:
    """A million pages: what a call reads is bounded by its own list (counted, not timed)."""
    allocator = PageAllocator(1 << 20, "big")
    reads = 0

    class CountingStates(bytearray):
        def __getitem__(self, index):
            nonlocal reads
            reads += 1
            return super().__getitem__(index)

    allocator._states = CountingStates(allocator._states)
    for _ in range(3):
        ids = allocator.alloc(1000)
        allocator.move(ids, ATTACHED)
        allocator.free(ids)
    assert reads == 6000
    assert allocator.num_free == 1 << 20
