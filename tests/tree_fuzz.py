"""One fuzz run: 1 to 4 ranks with the same calls, the plain model, and the pools' ledgers.

After every op: invariants of the tree, tree equal to model page by page, ledgers equal to what the
tree owns and what is in flight, and the digests of all ranks equal.
"""

import random

import tree_bad_calls  # noqa: F401  (they register their ops)
import tree_copy_ops  # noqa: F401
from tree_checks import compare
from tree_event_ops import Listener
from tree_keys import GENERATORS, page_keys
from tree_model import DEVICE, HOST
from tree_model_duplicates import FullModel
from tree_ops import OPS
from tree_pools import Pool
from tree_ranks import Ranks

from hicache_ext.keys import page_keys_py, token_hash
from hicache_ext.tier import Tier
from hicache_ext.tree import Full, HostPaths, Mamba, RadixTree, Strategy, Swa
from hicache_ext.tree.key import KeyUnit

TIERS = (DEVICE, HOST)
CORES = ("python", "native")
MAX_PAGES = 40
ORACLE_EVERY = 5  # ops, with both cores: the native core's check against the Python tree's
# By rank, the rank's own id of a page and the other way around. Those of one are far apart: the
# native core's ledger is in pieces of 2^15.
FAR = {page: page << 12 for page in range(64)}
OWN_IDS = (
    None,
    {page: page ^ 21 for page in range(64)},
    FAR | {own: page for page, own in FAR.items()},
    {page: page ^ 63 for page in range(64)},
)


class Fuzz:
    """`seed` decides everything: shape of the tree, ranks, pools, prompts, weights, ops. Each rank
    has one of `cores`, so that ranks with two of them show that they do the same.
    """

    def __init__(self, seed, cores=CORES):
        self.rng = rng = random.Random(seed)
        self.page_size = rng.choice((1, 2, 4, 16))
        window = rng.choice((None, 1, 2, 3, 5))
        window_tokens = window and rng.randint(
            (window - 1) * self.page_size + 1, window * self.page_size
        )
        has_states, has_gaps = rng.random() < 0.4, rng.random() < 0.3
        strategy = rng.choice([*Strategy])
        self.unit = rng.choice((KeyUnit.TOKEN, KeyUnit.TOKEN, KeyUnit.BIGRAM))
        self.has_events = rng.random() < 0.4
        policies = (window_tokens, has_states, strategy, has_gaps)
        num_ranks = rng.choice((1, 1, 1, 2, 2, 3, 4))
        trees = [self.make_tree(rng.choice(cores), *policies) for _ in range(num_ranks)]
        self.has_oracle = "python" in cores
        self.ranks = Ranks(trees, OWN_IDS[:num_ranks])
        self.each, self.tree = self.ranks.each, self.ranks.trees[0]
        self.model = FullModel(window, states=has_states, strategy=strategy, gaps=has_gaps)
        self.kinds = self.model.kinds
        self.pools = {
            (kind, tier): Pool(rng.randint(8, MAX_PAGES)) for kind in self.kinds for tier in TIERS
        }
        generators = rng.sample(GENERATORS, rng.randint(1, len(GENERATORS)))
        self.prompts = [make(rng, self.page_size) for make in generators]
        self.namespaces = (b"", b"lora")[: rng.randint(1, 2)]
        # Open receipts and plans, with what the model knows of them.
        self.locks, self.copies = [], []
        self.listener = Listener()
        self.weights = [op.weight * rng.choice((0, 1, 1, 4)) for op in OPS]
        self.weights[0] = self.weights[1] = 8  # match and insert: without them nothing happens
        self.log = []

    def make_tree(self, core, window_tokens, has_states, strategy, has_gaps):
        swa = [] if window_tokens is None else [Swa(window_tokens)]
        parts = [Full(), *swa, *([Mamba()] if has_states else [])]
        paths = HostPaths.GAPS if has_gaps else HostPaths.WHOLE
        return RadixTree(
            self.page_size,
            parts,
            unit=self.unit,
            strategy=strategy,
            host_paths=paths,
            token_hash=token_hash,
            has_events=self.has_events,
            core=core,
        )

    def run(self, num_ops):
        for _ in range(num_ops):
            op = self.rng.choices(OPS, self.weights)[0]
            self.log.append(op.__name__)
            op(self)
            self.verify()
        self.finish()

    def verify(self):
        """After what has called a tree; many an op finds nothing to do."""
        if self.ranks.is_checked:
            return
        rows = self.ranks.check()
        if self.has_oracle and len(self.log) % ORACLE_EVERY == 0:
            self.ranks.check_reports()
        compare(rows, self.model)
        in_flight = {key: set() for key in self.pools}
        for copy in self.copies:
            for kind, ids in copy.ids.items():
                in_flight[kind, copy.target].update(ids)
        for i, (place, pool) in enumerate(self.pools.items()):  # in the order of the ids
            held = set(rows.ids[i :: len(self.pools)])
            held.discard(None)
            pool.check(held, in_flight[place])

    def finish(self):
        """Give everything back: nothing may be left, in the tree or in a pool."""
        for receipts, counted in self.locks:
            self.each("unlock", receipts)
            self.model.unlock(counted)
        for copy in self.copies:
            copy.abort(self)
        self.locks, self.copies = [], []
        self.verify()
        for (kind, tier), pool in self.pools.items():
            assert self.tree.owned_pages(Tier(tier), kind) == sorted(pool.attached)
        for tier in TIERS:
            self.clear(tier)
            self.verify()
        for pool in self.pools.values():
            assert pool.num_free == pool.capacity
        assert not self.model.pages()

    # --- what the ops are made of -----------------------------------------------------------------

    def prompt(self):
        """(tokens, keys of its whole pages, namespace)"""
        tokens = self.rng.choice(self.prompts).next()
        keys = page_keys(tokens, self.page_size, self.unit is KeyUnit.BIGRAM)
        return tokens, keys, self.rng.choice(self.namespaces)

    def chain_keys(self, pages, seed):
        """The keys of consecutive pages as the store knows them; `seed` is what comes before."""
        return page_keys_py(b"".join(pages), self.page_size * self.unit.num_words, seed)

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
        pool, gone = self.pools[kind, tier], set(released)
        pool.move([page for page in ids if page not in gone], pool.reserved, pool.attached)
        pool.give_back(released, pool.reserved)

    def evict(self, tier, wanted):
        result = self.each("evict", Tier(tier), wanted)
        freed = self.model.evict(tier, wanted)
        assert result.on(Tier(tier)) == freed, (wanted, result, freed)
        self.after_evict(tier, result, freed)

    def clear(self, tier):
        result = self.each("clear", Tier(tier))
        freed = self.model.clear(tier)
        for kind in self.kinds:
            assert sorted(result.on(Tier(tier))[kind]) == sorted(freed[kind])
        self.after_evict(tier, result, freed)

    def after_evict(self, tier, result, freed):
        other, lost = result.on(Tier(1 - tier)), self.model.lost
        for kind in self.kinds:
            assert sorted(other[kind]) == sorted(lost[kind])
            for side, ids in ((tier, freed[kind]), (1 - tier, lost[kind])):
                pool = self.pools[kind, side]
                pool.give_back(ids, pool.attached)

    def refused(self, error, call):
        """`call` on some rank's tree raises and nothing has changed."""
        tree = self.rng.choice(self.ranks.trees)
        digest, rows = tree.digest, tree.page_rows()
        try:
            call(tree)
        except error:
            pass
        else:
            raise AssertionError("a call that must be refused was not")
        assert tree.digest == digest and tree.page_rows() == rows
