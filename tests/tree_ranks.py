"""1 to 4 ranks with the same calls: trees that must stay alike, each with page ids of its own."""

from dataclasses import replace

from hicache_ext.tree import Receipt
from hicache_ext.tree.integrity import violations
from hicache_ext.tree.native import NativeTree
from hicache_ext.tree.results import TransferPlan
from hicache_ext.tree.rows import PageRows


class PerRank(tuple):
    """A receipt or a plan: one of each rank."""


class RankTree:
    """A tree behind the model's page ids: `own` has the rank's own by those, and those by its own;
    None: they are the same.
    """

    def __init__(self, tree, own):
        self.tree = tree
        self.own = own

    def __getattr__(self, name):
        return getattr(self.tree, name)  # the calls without page ids

    def ids(self, pages):
        if not self.own:
            return pages
        if isinstance(pages, dict):
            return {kind: self.ids(ids) for kind, ids in pages.items()}
        own = self.own.get
        return pages and [own(page, page) for page in pages]

    def insert(self, tokens, pages, *args):
        result = self.tree.insert(tokens, self.ids(pages), *args)
        return replace(result, released=self.ids(result.released))

    def insert_host(self, anchor, tokens, pages):
        result = self.tree.insert_host(anchor, tokens, self.ids(pages))
        return replace(result, released=self.ids(result.released))

    def window(self, component, anchor, node, pages):
        return self.tree.window(component, anchor, node, self.ids(pages))

    def result_of(self, txn):
        attached, released = self.ids(txn.result.attached), self.ids(txn.result.released)
        return replace(txn.result, attached=attached, released=released)

    def commit_backup(self, plan, pages):
        return self.ids(self.tree.commit_backup(plan, self.ids(pages)))

    def commit_load_back(self, plan, pages):
        return self.ids(self.tree.commit_load_back(plan, self.ids(pages)))

    def evict(self, tier, num_pages):
        return self._freed(self.tree.evict(tier, num_pages))

    def drop_duplicates(self, num_pages):
        return self._freed(self.tree.drop_duplicates(num_pages))

    def clear(self, tier):
        return self._freed(self.tree.clear(tier))

    def _freed(self, result):
        return replace(result, device=self.ids(result.device), host=self.ids(result.host))

    def sources(self, plan):
        """What a plan says to copy from, and how many pages it asks for."""
        pages = plan.device_pages if hasattr(plan, "device_pages") else plan.host_pages
        return self.ids(pages), plan.num_pages

    def path_pages(self, *args):
        return self.ids(self.tree.path_pages(*args))

    def owned_pages(self, tier, component):
        return sorted(self.ids(self.tree.owned_pages(tier, component)))

    def page_rows(self):
        facts, ids = self.tree.page_rows()
        return PageRows(facts, self.ids(ids))


class Ranks:
    def __init__(self, trees, owns):
        self._trees = [RankTree(tree, own) for tree, own in zip(trees, owns, strict=True)]
        self.is_checked = False

    @property
    def trees(self):
        """Who asks for them may change them."""
        self.is_checked = False
        return self._trees

    def each(self, name, *args, **kwargs):
        """The same call on every rank. Equal results, returned once; receipts and plans of each."""
        results = []
        for i, tree in enumerate(self.trees):
            own = [arg[i] if isinstance(arg, PerRank) else arg for arg in args]
            results.append(getattr(tree, name)(*own, **kwargs))
        if isinstance(results[0], (Receipt, TransferPlan)):
            assert len({(item.id, item.node) for item in results}) == 1
            return PerRank(results)
        assert all(result == results[0] for result in results), (name, results)
        return results[0]

    def check(self):
        """Each is sound, and everything that the others have is what the first one has. Returns
        that, as page_rows().
        """
        rows = None
        for rank in self._trees:
            rank.tree.check_integrity()
            found = rank.page_rows()
            rows = rows or found
            if found != rows:
                raise AssertionError(f"ranks differ:\n{rank.show()}\n{self._trees[0].show()}")
        digests = [rank.tree.digest for rank in self._trees]
        assert len(set(digests)) == 1, digests
        logs = [rank.tree.log for rank in self._trees]
        if len({log.hash for log in logs}) != 1:
            last = [log.text(log.num_ops - 1) for log in logs if log.num_ops]
            raise AssertionError(f"ranks have done different things: {last}")
        self.is_checked = True
        return rows

    def check_reports(self):
        """The Python tree's check, of a copy of a native core, says what that core says."""
        for rank in self._trees:
            if isinstance(rank.tree, NativeTree):
                assert violations(rank.tree._state) == rank.tree._core.violations()
