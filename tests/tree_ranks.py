"""1 to 4 ranks with the same calls: trees that must stay alike, each with page ids of its own."""

from dataclasses import replace

from hicache_ext.tree import Receipt
from hicache_ext.tree.results import TransferPlan


class PerRank(tuple):
    """A receipt or a plan: one of each rank."""


class RankTree:
    """A tree behind the model's page ids: `mask` turns them into the rank's own, and back."""

    def __init__(self, tree, mask):
        self.tree = tree
        self.mask = mask

    def __getattr__(self, name):
        return getattr(self.tree, name)  # the calls without page ids

    def ids(self, pages):
        if isinstance(pages, dict):
            return {kind: self.ids(ids) for kind, ids in pages.items()}
        return pages and [page if page < 0 else page ^ self.mask for page in pages]

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

    def rows(self):
        found = self.tree.rows()
        if not self.mask:
            return found
        return [row._replace(parts=tuple(map(self._part, row.parts))) for row in found]

    def _part(self, part):
        return part._replace(device=self.ids(part.device), host=self.ids(part.host))


class Ranks:
    def __init__(self, trees, masks):
        self.trees = [RankTree(tree, mask) for tree, mask in zip(trees, masks, strict=True)]

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

    def check_alike(self):
        """O(what changed); see check_all."""
        assert len({tree.digest for tree in self.trees}) == 1, [t.digest for t in self.trees]
        logs = [tree.log for tree in self.trees]
        last = [log.text(log.num_ops - 1) for log in logs if log.num_ops]
        assert len({log.hash for log in logs}) == 1, last

    def check_all(self):
        """Everything that the others have is what the first one has."""
        rows = self.trees[0].rows()
        for tree in self.trees[1:]:
            tree.check_integrity()
            assert tree.rows() == rows
