"""Backup and load-back as ops of the tree's fuzz: begun in one op, ended in a later one."""

from dataclasses import dataclass

from tree_model import DEVICE, HOST
from tree_ops import op

from hicache_ext.errors import TreeError


@dataclass
class Copy:
    """A backup or load-back that is on its way."""

    plans: tuple  # one per rank
    target: int
    pages: dict  # the model's pages, by kind
    ids: dict  # target page ids, by kind
    pins: list

    @property
    def is_backup(self):
        return self.target == HOST

    def abort(self, fuzz):
        name = "abort_backup" if self.is_backup else "abort_load_back"
        fuzz.each(name, self.plans)
        for counted in self.pins:
            fuzz.model.unlock(counted)
        for kind, ids in self.ids.items():
            fuzz.pools[kind, self.target].give_back(ids, fuzz.pools[kind, self.target].io)


@op(4)
def begin_copy(fuzz):
    end, source = fuzz.any_end(), fuzz.rng.choice((DEVICE, HOST))
    if end is None or len(fuzz.copies) > 3:
        return
    target = HOST if source == DEVICE else DEVICE
    name = "begin_backup" if source == DEVICE else "begin_load_back"
    options = fuzz.backup_options(end) if source == DEVICE else {}
    pages = {kind: fuzz.model.missing(end, kind, source, target, **options) for kind in fuzz.kinds}
    if None in pages.values():
        fuzz.refused(TreeError, lambda tree: getattr(tree, name)(end.node_id))
        return
    if source == HOST:
        fuzz.model.cut_windows(end)
        pages = {kind: fuzz.model.missing(end, kind, source, target) for kind in fuzz.kinds}
    plans = fuzz.each(name, end.node_id, **options)
    if not any(pages.values()):
        assert plans is None
        return
    expected = {kind: [page.held[kind][source] for page in pages[kind]] for kind in fuzz.kinds}
    num_pages = {kind: len(pages[kind]) for kind in fuzz.kinds}
    for tree, plan in zip(fuzz.ranks.trees, plans, strict=True):
        assert tree.sources(plan) == (expected, num_pages)
    copy = Copy(plans, target, pages, {}, pin(fuzz, end, pages, source))
    for kind in fuzz.kinds:
        ids = fuzz.alloc(kind, target, len(pages[kind]))
        if ids is None:
            copy.abort(fuzz)
            return
        pool = fuzz.pools[kind, target]
        pool.move(ids, pool.reserved, pool.io)
        copy.ids[kind] = ids
    fuzz.copies.append(copy)


def pin(fuzz, end, pages, source):
    """What a plan locks: a backup all that it reads, a load-back what the end needs."""
    if source == HOST:
        return [fuzz.model.lock(end, tier) for tier in (DEVICE, HOST)]
    chain, reach = fuzz.model.chain(end), {}
    for kind in fuzz.kinds:
        first = pages[kind] and fuzz.model.node_of(pages[kind][0])[0].depth - 1
        reach[kind] = chain[first:] if pages[kind] else []
    return [fuzz.model.lock(end, DEVICE, {**reach, "full": chain})]


@op(4)
def end_copy(fuzz):
    if not fuzz.copies:
        return
    copy = fuzz.copies.pop(fuzz.rng.randrange(len(fuzz.copies)))
    if fuzz.rng.random() < 0.25:
        copy.abort(fuzz)
        return
    name = "commit_backup" if copy.is_backup else "commit_load_back"
    result = fuzz.each(name, copy.plans, copy.ids)
    unused = fuzz.model.commit_copy(copy.pages, copy.target, copy.ids)
    for counted in copy.pins:
        fuzz.model.unlock(counted)
    assert result == unused
    for kind, ids in copy.ids.items():
        pool = fuzz.pools[kind, copy.target]
        pool.move(ids, pool.io, pool.reserved)
        fuzz.settle(kind, copy.target, ids, unused[kind])
    fuzz.refused(TreeError, lambda tree: getattr(tree, name)(copy.plans[0], copy.ids))
