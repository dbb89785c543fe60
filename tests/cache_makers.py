"""Caches of one rank, for tests of what they tell."""

from __future__ import annotations

import pytest
import ranks

from hicache_ext.agreement.local import LocalGroup

PAGE = ranks.PAGE_SIZE


@pytest.fixture
def make_rank():
    made = []

    def make(**kwargs):
        made.append(ranks.Rank(0, LocalGroup(), **kwargs))
        return made[-1]

    yield make
    for rank in made:
        rank.close()


def prefill(cache, tokens, namespace=b"", request=None):
    """Computes all whole pages of `tokens`; the tree has them, and so have L2 and L3."""
    unit = cache.config.key_unit
    num_pages = (len(tokens) - unit.num_words + 1) // PAGE
    match = cache.match(tokens, namespace, request=request)
    done = len(match.pages["full"])
    new = cache.alloc({"full": num_pages - done, "swa": num_pages - done})
    pages = {name: match.pages[name] + new[name] for name in new}
    cache.insert(match, tokens[: num_pages * PAGE + unit.num_words - 1], pages)
    cache.release(match)
    cache.drain()
