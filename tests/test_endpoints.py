"""restorable_endpoints against a brute-force reading of its definition."""

import itertools
import random

import pytest

from hicache_ext.errors import StorageError
from hicache_ext.storage import restorable_endpoints


def brute_force(full, windows, has_head) -> list[int]:
    legal = []
    for endpoint in range(1, len(full) + 1):
        ok = all(full[:endpoint])
        for present, w in windows.values():
            padded = [*present, *[False] * len(full)]
            ok = ok and all(padded[i] for i in range(max(0, endpoint - w), endpoint))
            ok = ok and (endpoint >= w or has_head)
        if ok:
            legal.append(endpoint)
    return legal


@pytest.mark.parametrize("has_head", [True, False])
def test_exhaustive_one_window(has_head: bool) -> None:
    for num_pages, w in itertools.product(range(6), range(8)):
        for bits in itertools.product([False, True], repeat=2 * num_pages):
            full, swa = bits[:num_pages], bits[num_pages:]
            windows = {"swa": (swa, w)}
            got = restorable_endpoints(full, windows, has_head=has_head)
            assert got == brute_force(full, windows, has_head), (full, swa, w)


@pytest.mark.parametrize("seed", range(50))
def test_random_several_windows_and_short_lists(seed: int) -> None:
    rng = random.Random(seed)
    for _ in range(40):
        num_pages = rng.randrange(30)
        density = rng.choice([0.5, 0.9, 1.0])
        full = [rng.random() < max(density, 0.9) for _ in range(num_pages)]
        windows = {
            f"p{i}": (
                [rng.random() < density for _ in range(rng.choice([num_pages, rng.randrange(31)]))],
                rng.randrange(12),
            )
            for i in range(rng.randrange(4))
        }
        for has_head in (True, False):
            got = restorable_endpoints(full, windows, has_head=has_head)
            assert got == brute_force(full, windows, has_head), (full, windows, has_head)


def test_page_size_4_window_10() -> None:
    yes, window = [True] * 5, {"swa": ([True] * 5, 3)}
    assert restorable_endpoints(yes, window, has_head=False) == [3, 4, 5]
    assert restorable_endpoints(yes, window, has_head=True) == [1, 2, 3, 4, 5]
    # One window page lost: endpoints whose window holds it are gone, the longest whole one is left.
    lost = {"swa": ([True, True, True, False, True], 3)}
    assert restorable_endpoints(yes, lost, has_head=False) == [3]
    assert restorable_endpoints(yes, lost, has_head=True) == [1, 2, 3]


def test_a_store_that_returns_nothing_is_a_hit_of_zero() -> None:
    assert restorable_endpoints([], {"swa": ([], 3)}, has_head=True) == []
    assert restorable_endpoints([True] * 4, {"swa": ([], 3)}, has_head=True) == []
    assert restorable_endpoints([True] * 4, {"swa": ([], 0)}, has_head=True) == [1, 2, 3, 4]


def test_linear_in_pages() -> None:
    class Counted(list):
        reads = 0

        def __getitem__(self, index):
            Counted.reads += 1
            return super().__getitem__(index)

    num_pages = 2000
    present = Counted([True] * num_pages)
    restorable_endpoints([True] * num_pages, {"swa": (present, 500)}, has_head=False)
    assert Counted.reads == num_pages


def test_negative_window_is_refused() -> None:
    with pytest.raises(StorageError, match="'swa': window of -1 pages"):
        restorable_endpoints([True], {"swa": ([True], -1)}, has_head=True)
