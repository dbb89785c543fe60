"""A rank in a process of its own that has a cache, and ways to fail."""

import os

import numpy as np
from group_worker import RankCommands
from ranks import Rank
from spans import fill_stores, make_tokens

from hicache_ext.agreement import schema
from hicache_ext.errors import AgreementError
from hicache_ext.flow.io import ThreadIo
from hicache_ext.pool import PageState


class CacheCommands(RankCommands):
    """A rank that also has a cache, whose ticks it runs."""

    def make_cache(self, depth, deadline_s):
        self.config = {"tick_depth": depth, "tick_deadline_s": deadline_s}
        self.rank = Rank(self.group.rank, self.group, io=ThreadIo(2), **self.config)
        self.tokens = make_tokens(4)
        fill_stores([self.rank], self.tokens)

    def run_ticks(self, num_ticks):
        """With prefetches in flight: the text of the error that ends them, or nothing."""
        cache = self.rank.cache
        try:
            for i in range(num_ticks):
                if i % 3 == 0:
                    cache.prefetch([100 + i, *self.tokens])
                cache.tick()
        except AgreementError as error:
            return str(error)
        return None

    def send_garbage(self):
        issue, rng = self.group.issue, np.random.default_rng(os.getpid())

        class Garbage:
            def __getattr__(_, name):
                return getattr(self.group, name)

            def issue(_, lanes):
                issue(rng.integers(-(1 << 63), 1 << 63, lanes.size, np.int64))

        self.rank.cache._engine._group = Garbage()

    def begin_again(self):
        """As a rank that was restarted."""
        self.rank.cache.close()
        self.make_cache(*self.config.values())

    def update(self):
        """As a rank that was restarted with another version of the package."""
        schema.VERSION += ".post1"
        self.begin_again()

    def close_cache(self):
        """How many pages each pool still holds for ops."""
        self.rank.cache.close()
        self.rank.check_ledger()
        held = {}
        for pool in (*self.rank.device.values(), *self.rank.host.values()):
            counts = pool.allocator.counts()
            held[pool.name] = counts[PageState.RESERVED] + counts[PageState.IO]
        self.group.close()
        return held
