"""Bad input to the cache: a typed error with the values, and nothing has changed."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import ranks  # not from: one depth of the tick is enough here

from hicache_ext.agreement.local import LocalGroup
from hicache_ext.errors import CapacityError, HiCacheError, LayoutError, PageIndexError, TreeError
from hicache_ext.namespace import Namespace
from hicache_ext.tier import Tier


@pytest.fixture(scope="module")
def foreign():
    """A match of another cache."""
    other = ranks.Rank(0, LocalGroup())
    yield other.cache.match([1])
    other.close()


@pytest.fixture
def cache(foreign):
    """Two pages of a prompt inserted and held by `match`, a page in `mine`."""
    rank = ranks.Rank(0, LocalGroup())
    made = rank.cache
    match, over = made.match(list(range(8))), made.match([])
    pages = made.alloc({"full": 2, "swa": 2})
    made.insert(match, list(range(8)), pages)
    made.drain()
    made.release(over)
    yield SimpleNamespace(
        cache=made,
        match=match,
        over=over,
        foreign=foreign,
        mine=made.alloc({"full": 1, "swa": 1}),
        held=pages,
    )
    rank.close()


def grow(c, **changes):
    """An insert of one page behind the match, with changes."""
    pages = {name: c.match.pages[name] + c.mine[name] for name in c.mine}
    return c.cache.insert(changes.pop("match", c.match), list(range(12)), {**pages, **changes})


CACHE_CASES = {
    "tokens too wide": (lambda c: c.cache.match([2**32]), TreeError, "position 0 .* 4294967296"),
    "tokens of bools": (lambda c: c.cache.match([True]), TreeError, "no integer: True"),
    "prefetch of floats": (lambda c: c.cache.prefetch([0.5] * 9), TreeError, r"integer: 0\.5"),
    "namespace as text": (lambda c: c.cache.match([1], "a"), TreeError, "is bytes, got 'a'"),
    "namespace as object": (
        lambda c: c.cache.prefetch(list(range(9)), Namespace("x")),
        TreeError,
        "is bytes, got Namespace",
    ),
    "request as number": (lambda c: c.cache.match([1], request=7), HiCacheError, "request=7"),
    "unknown request": (lambda c: c.cache.explain("who"), HiCacheError, "'who' is not known"),
    "unaligned": (
        lambda c: c.cache.insert(c.match, list(range(13)), c.match.pages),
        LayoutError,
        "13 tokens are no whole number of pages of 4",
    ),
    "other tokens": (
        lambda c: c.cache.insert(c.match, [9] * 8, c.match.pages),
        TreeError,
        "do not begin with those of node",
    ),
    "a pool is missing": (
        lambda c: c.cache.insert(c.match, list(range(8)), {"full": c.match.pages["full"]}),
        LayoutError,
        r"pages of pools \['full'\], expected \['full', 'swa'\]",
    ),
    "an unknown pool": (lambda c: grow(c, mamba=[1]), LayoutError, "'mamba'"),
    "pages of another length": (lambda c: grow(c, full=[0]), TreeError, "1 page ids for 3 pages"),
    "a hole in the window": (lambda c: grow(c, swa=[-1, -1, -1]), TreeError, "page 0 of 3"),
    "pages out of range": (
        lambda c: grow(c, full=[*c.match.pages["full"], 999]),
        PageIndexError,
        "999",
    ),
    "pages not handed out": (
        lambda c: grow(c, full=[*c.match.pages["full"], 31]),
        CapacityError,
        "page 31 at position 2 is FREE",
    ),
    "pages that are owned": (
        lambda c: c.cache.insert(
            c.over_fresh, [9] * 4, {name: ids[:1] for name, ids in c.held.items()}
        ),
        CapacityError,
        "page 0 at position 0 is ATTACHED",
    ),
    "a page that is no number": (
        lambda c: grow(c, full=[*c.match.pages["full"], "x"]),
        TreeError,
        "pages of full: page ids must be 64-bit integers",
    ),
    "release without a match": (lambda c: c.cache.release(None), TreeError, "None is no match"),
    "release twice": (lambda c: c.cache.release(c.over), TreeError, "released already"),
    "release of another's": (lambda c: c.cache.release(c.foreign), TreeError, "another cache"),
    "insert after release": (lambda c: grow(c, match=c.over), TreeError, "released already"),
    "insert by another's": (lambda c: grow(c, match=c.foreign), TreeError, "another cache"),
    "load-back after release": (
        lambda c: c.cache.load_back(c.over),
        TreeError,
        "released already",
    ),
    "load-back without a match": (lambda c: c.cache.load_back(3), TreeError, "3 is no match"),
    "windows without a match": (lambda c: c.cache.release_windows(3), TreeError, "3 is no match"),
    "windows after release": (lambda c: c.cache.release_windows(c.over), TreeError, "already"),
    "windows of another's": (
        lambda c: c.cache.release_windows(c.foreign),
        TreeError,
        "another cache",
    ),
    "a quota that is no number": (
        lambda c: c.cache.load_back(c.match, max_tokens=0.5),
        HiCacheError,
        r"max_tokens=0\.5",
    ),
    "need of less than none": (
        lambda c: c.cache.device_need(c.match, -1),
        HiCacheError,
        "num_new_tokens=-1",
    ),
    "room in an unknown pool": (
        lambda c: c.cache.can_admit({"x": 1}),
        CapacityError,
        "'x': 1",
    ),
    "park without a match": (lambda c: c.cache.park(None, 8, {}), TreeError, "None is no match"),
    "park after release": (lambda c: c.cache.park(c.over, 0, {}), TreeError, "released already"),
    "park of a part": (
        lambda c: c.cache.park(c.match, 7.5, c.match.pages),
        HiCacheError,
        r"num_tokens=7\.5",
    ),
    "park of too few pages": (
        lambda c: c.cache.park(c.match, 12, c.match.pages),
        CapacityError,
        "2 full pages for 12 tokens",
    ),
    "park in an unknown pool": (
        lambda c: c.cache.park(c.match, 8, {**c.match.pages, "x": [1]}),
        HiCacheError,
        "'x'",
    ),
    "park of pages not handed out": (
        lambda c: c.cache.park(c.match, 12, {n: [*i, 31] for n, i in c.match.pages.items()}),
        CapacityError,
        "page 31 at position 2 is FREE",
    ),
    "restore of nothing": (lambda c: c.cache.restore(None), HiCacheError, "None is not parked"),
    "discard of nothing": (lambda c: c.cache.discard(7), HiCacheError, "7 is not parked"),
    "a priority that is no number": (
        lambda c: c.cache.insert(c.match, list(range(8)), c.match.pages, priority="high"),
        TreeError,
        "priority 'high' is no 32-bit integer",
    ),
    "alloc of an unknown pool": (lambda c: c.cache.alloc({"x": 1}), CapacityError, "'x': 1"),
    "alloc of less than none": (lambda c: c.cache.alloc({"full": -1}), CapacityError, "-1"),
    "alloc of a part": (lambda c: c.cache.alloc({"full": 1.5}), HiCacheError, r"1\.5"),
    "free of what is the tree's": (lambda c: c.cache.free(c.held), CapacityError, "ATTACHED"),
    "free twice at once": (
        lambda c: c.cache.free({"full": c.mine["full"], "swa": c.mine["swa"] * 2}),
        CapacityError,
        r"pool swa: pages \[2\] are named twice",
    ),
    "free out of range": (lambda c: c.cache.free({"full": [99]}), PageIndexError, "99"),
    "free of an unknown pool": (lambda c: c.cache.free({"x": [0]}), CapacityError, "'x'"),
    "evict of an unknown pool": (
        lambda c: c.cache.evict(Tier.DEVICE, {"x": 1}),
        TreeError,
        "'x' is unknown",
    ),
    "evict of less than none": (
        lambda c: c.cache.evict(Tier.HOST, {"full": -1}),
        TreeError,
        "evict -1 pages",
    ),
    "flush of L3": (
        lambda c: c.cache.flush(Tier.HOST, Tier.STORAGE),
        TreeError,
        "holds pages on the device and on the host",
    ),
}


@pytest.mark.parametrize("name", CACHE_CASES)
def test_cache_refuses(cache, name):
    call, kind, message = CACHE_CASES[name]
    made = cache.cache
    if name == "pages that are owned":
        cache.over_fresh = made.match([])
    before = made.tree.digest, made.tree.show(), made.pools.num_free(), made.tree.log.num_ops
    with pytest.raises(kind, match=message):
        call(cache)
    after = made.tree.digest, made.tree.show(), made.pools.num_free(), made.tree.log.num_ops
    assert after == before
    made.check_integrity()
    grow(cache)  # what was held is good still
    made.drain()
    made.check_integrity()


def test_cache_takes_what_is_only_unusual(cache):
    made = cache.cache
    match = made.match([])
    made.insert(match, [], {"full": [], "swa": []})
    assert made.prefetch([]) is made.prefetch([1]) is made.load_back(match) is None
    made.evict(Tier.DEVICE, {"full": 10**9, "swa": 10**9})
    assert made.alloc({"full": 10**9}) is None and made.alloc({}) == {}
    assert made.abort(12345) is False
    made.free({"full": [-1, *cache.mine["full"], -1]})
    made.release(match)
    made.check_integrity()


CLOSED = {
    "match": lambda c: c.cache.match([1]),
    "prefetch": lambda c: c.cache.prefetch(list(range(9))),
    "load_back": lambda c: c.cache.load_back(c.match),
    "alloc": lambda c: c.cache.alloc({"full": 1}),
    "insert": grow,
    "flush": lambda c: c.cache.flush(),
    "evict": lambda c: c.cache.evict(Tier.DEVICE, {"full": 1}),
    "poll": lambda c: c.cache.poll(1),
    "tick": lambda c: c.cache.tick(),
    "publish": lambda c: c.cache.publish(),
    "apply": lambda c: c.cache.apply(),
    "drain": lambda c: c.cache.drain(),
    "attach_store": lambda c: c.cache.attach_store(None),
    "detach_store": lambda c: c.cache.detach_store(),
    "clear_store": lambda c: c.cache.clear_store(),
}


@pytest.mark.parametrize("name", CLOSED)
def test_after_close_everything_but_giving_back_is_refused(cache, name):
    made = cache.cache
    made.close()
    before = made.tree.digest, made.tree.show()
    with pytest.raises(HiCacheError, match="the cache is closed"):
        CLOSED[name](cache)
    assert (made.tree.digest, made.tree.show()) == before
    made.release(cache.match)  # what a request holds can be given back
    made.free(cache.mine)
    made.check_integrity()
    made.close()


assert ranks.PAGE_SIZE == 4  # the numbers above
