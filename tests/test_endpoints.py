"""restorable_endpoints against a brute-force reading of its definition."""

import itertools
import random

import pytest

from hicache_ext.errors import StorageError
from hicache_ext.storage import restorable_endpoints


def brute_force(full, windows, from_root) -> list[int]:
    legal = []
    for endpoint in range(1, len(full) + 1):
        ok = all(full[:endpoint])
        for present, w in windows.values():
            padded = [*present, *[False] * len(full)]
            ok = ok and all(padded[i] for i in range(max(0, endpoint - w), endpoint))
            ok = ok and (endpoint >= w or from_root)
        if ok:
            legal.append(endpoint)
    return legal


@pytest.mark.parametrize("from_root", [True, False])
def test_exhaustive_one_window(from_root: bool) -> None:
    for num_pages, w in itertools.product(range(6), range(8)):
        for bits in itertools.product([False, True], repeat=2 * num_pages):
            full, swa = bits[:num_pages], bits[num_pages:]
            windows = {"swa": (swa, w)}
            got = restorable_endpoints(full, windows, from_root=from_root)
            assert got == brute_force(full, windows, from_root), (full, swa, w)


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
        for from_root in (True, False):
            got = restorable_endpoints(full, windows, from_root=from_root)
            assert got == brute_force(full, windows, from_root), (full, windows, from_root)


def test_page_size_4_window_10() -> None:
    yes, window = [True] * 5, {"swa": ([True] * 5, 3)}
    assert restorable_endpoints(yes, window, from_root=False) == [3, 4, 5]
    assert restorable_endpoints(yes, window, from_root=True) == [1, 2, 3, 4, 5]
    # One window page lost: endpoints whose window holds it are gone, the longest whole one is left.
    lost = {"swa": ([True, True, True, False, True], 3)}
    assert restorable_endpoints(yes, lost, from_root=False) == [3]
    assert restorable_endpoints(yes, lost, from_root=True) == [1, 2, 3]


def test_a_store_that_returns_nothing_is_a_hit_of_zero() -> None:
    assert restorable_endpoints([], {"swa": ([], 3)}, from_root=True) == []
    assert restorable_endpoints([True] * 4, {"swa": ([], 3)}, from_root=True) == []
    assert restorable_endpoints([True] * 4, {"swa": ([], 0)}, from_root=True) == [1, 2, 3, 4]


def test_linear_in_pages() -> None:
    class Counted(list):
        reads = 0

        def __getitem__(self, index):
            Counted.reads += 1
            return super().__getitem__(index)

    num_pages = 2000
    present = Counted([True] * num_pages)
    restorable_endpoints([True] * num_pages, {"swa": (present, 500)}, from_root=False)
    assert Counted.reads == num_pages


def test_negative_window_is_refused() -> None:
    with pytest.raises(StorageError, match="'swa': window of -1 pages"):
        restorable_endpoints([True], {"swa": ([True], -1)}, from_root=True)
