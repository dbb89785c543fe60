"""One fuzz run: a tree, a twin that gets the same calls, the plain model, and the pools' ledgers.

After every op: invariants of the tree, tree equal to model page by page, ledgers equal to what the
tree owns and what is in flight, and the twin's digest equal to the tree's.
"""

import random

import tree_copy_ops  # noqa: F401  (registers its ops)
from tree_checks import compare, expect_unchanged
from tree_keys import GENERATORS, page_keys
from tree_model import DEVICE, HOST
from tree_model_evict import EvictingModel
from tree_ops import OPS

from hicache_ext.allocator import PageAllocator, PageState
from hicache_ext.tier import Tier
from hicache_ext.tree import Full, HostPaths, Mamba, RadixTree, Strategy, Swa

TIERS = (DEVICE, HOST)


class Fuzz:
    """`seed` decides everything: shape of the tree, pools, prompts, weights, ops."""

    def __init__(self, seed):
        self.rng = rng = random.Random(seed)
        self.page_size = rng.choice((1, 2, 4, 16))
        window = rng.choice((None, 1, 2, 3, 5))
        window_tokens = window and rng.randint(
            (window - 1) * self.page_size + 1, window * self.page_size
        )
        has_states, has_gaps = rng.random() < 0.4, rng.random() < 0.3
        strategy = rng.choice([*Strategy])
        policies = (window_tokens, has_states, strategy, has_gaps)
        self.tree, self.twin = (self.make_tree(*policies) for _ in range(2))
        self.model = EvictingModel(window, states=has_states, strategy=strategy, gaps=has_gaps)
        self.kinds = self.model.kinds
        self.pools = {}
        for kind in self.kinds:
            for tier in TIERS:
                name = f"{kind} {Tier(tier).name}"
                self.pools[kind, tier] = PageAllocator(rng.randint(8, 40), name)
        generators = rng.sample(GENERATORS, rng.randint(1, len(GENERATORS)))
        self.prompts = [make(rng, self.page_size) for make in generators]
        self.namespaces = (b"", b"lora")[: rng.randint(1, 2)]
        self.locks, self.copies = (
            [],
            [],
        )  # open receipts and plans, with what the model knows of them
        self.weights = [op.weight * rng.choice((0, 1, 1, 4)) for op in OPS]
        self.weights[0] = self.weights[1] = 8  # match and insert: without them nothing happens
        self.log = []

    def make_tree(self, window_tokens, has_states, strategy, has_gaps):
        swa = [] if window_tokens is None else [Swa(window_tokens)]
        parts = [Full(), *swa, *([Mamba()] if has_states else [])]
        paths = HostPaths.GAPS if has_gaps else HostPaths.WHOLE
        return RadixTree(self.page_size, parts, strategy=strategy, host_paths=paths)

    def run(self, num_ops):
        for _ in range(num_ops):
            op = self.rng.choices(OPS, self.weights)[0]
            self.log.append(op.__name__)
            op(self)
            self.verify()
        self.finish()

    def verify(self):
        self.tree.check_integrity()
        compare(self.tree, self.model)
        assert self.tree.digest == self.twin.digest
        in_flight = {key: set() for key in self.pools}
        for copy in self.copies:
            for kind, ids in copy.ids.items():
                in_flight[kind, copy.target].update(ids)
        for (kind, tier), pool in self.pools.items():
            attached = self.tree.owned_pages(Tier(tier), kind)
            assert pool.pages_in(PageState.ATTACHED) == attached
            assert set(pool.pages_in(PageState.IO)) == in_flight[kind, tier]
            assert not pool.counts()[PageState.RESERVED]

    def finish(self):
        """Give everything back: nothing may be left, in the tree or in a pool."""
        for receipt, twin_receipt, counted in self.locks:
            self.tree.unlock(receipt)
            self.twin.unlock(twin_receipt)
            self.model.unlock(counted)
        for copy in self.copies:
            copy.abort(self)
        self.locks, self.copies = [], []
        self.verify()
        self.twin.check_integrity()
        for tier in TIERS:
            self.clear(tier)
            self.verify()
        for pool in self.pools.values():
            assert pool.num_free == pool.capacity
        assert not self.model.pages()

    # --- what the ops are made of -----------------------------------------------------------------

    def both(self, name, *args, **kwargs):
        """The same call on the tree and on its twin: equal results or equal errors."""
        result = getattr(self.tree, name)(*args, **kwargs)
        twin = getattr(self.twin, name)(*args, **kwargs)
        assert result == twin, (name, result, twin)
        return result

    def prompt(self):
        """(tokens, keys of its whole pages, namespace)"""
        tokens = self.rng.choice(self.prompts).next()
        return tokens, page_keys(tokens, self.page_size), self.rng.choice(self.namespaces)

    def any_end(self):
        """A node's end page in the model, or a root; None if there is no tree yet."""
        ends = [*self.model.ends(), *self.model.roots.values()]
        return self.rng.choice(ends) if ends else None

    def backup_options(self, end):
        """All of the path, or less: only nodes with hits, or the last pages where that is legal."""
        rng = self.rng
        style = rng.random()
        if style < 0.2:
            return {"min_hits": rng.randint(0, 4)}
        last = rng.randint(0, end.depth)
        first = self.model.whole_nodes(end, last)[:1]
        above = first[0].parent if first else None
        on_host = above is None or above.parent is None or above.held["full"][HOST] is not None
        return {"last": last} if style > 0.6 and (on_host or self.model.gaps) else {}

    def alloc(self, kind, tier, count):
        """`count` pages, after an eviction if needed; None if they cannot be had."""
        pool = self.pools[kind, tier]
        if pool.num_free < count:
            self.evict(tier, {kind: count - pool.num_free})
        return pool.alloc(count)

    def settle(self, kind, tier, ids, released):
        """The tree kept `ids` but for `released`."""
        pool = self.pools[kind, tier]
        kept = [page for page in ids if page >= 0 and page not in set(released)]
        pool.move(kept, PageState.ATTACHED)
        pool.free(released)

    def evict(self, tier, wanted):
        result = self.both("evict", Tier(tier), wanted)
        freed = self.model.evict(tier, wanted)
        assert result.on(Tier(tier)) == freed, (wanted, result, freed)
        self.after_evict(tier, result, freed)

    def clear(self, tier):
        result = self.both("clear", Tier(tier))
        freed = self.model.clear(tier)
        for kind in self.kinds:
            assert sorted(result.on(Tier(tier))[kind]) == sorted(freed[kind])
        self.after_evict(tier, result, freed)

    def after_evict(self, tier, result, freed):
        other, lost = result.on(Tier(1 - tier)), self.model.lost
        for kind in self.kinds:
            assert sorted(other[kind]) == sorted(lost[kind])
            self.pools[kind, tier].free(freed[kind])
            self.pools[kind, 1 - tier].free(lost[kind])

    def refused(self, error, call):
        """`call` raises and nothing has changed."""
        expect_unchanged(self, error, call)
