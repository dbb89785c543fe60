"""Host copies that the plain model gives up although the device has the pages, too."""

from tree_model import DEVICE, HOST
from tree_model_evict import EvictingModel

SHARE = 8  # as in duplicates.py


class FullModel(EvictingModel):
    """The whole model."""

    def is_duplicate(self, end, kind):
        if None in end.held[kind] or any(end.locks[k][HOST] for k in self.taken_with(kind)):
            return False
        if kind != "full":
            return True
        below = any(child.held["full"][HOST] is not None for child in end.children.values())
        alone = any(held[HOST] is not None and held[DEVICE] is None for held in end.held.values())
        return not below and not alone

    def duplicates(self, kind):
        """Most recently used first, the deepest of one path."""
        ends = [end for end in self.ends() if self.is_duplicate(end, kind)]
        return sorted(ends, key=lambda end: (-end.used[kind], -end.depth, end.node_id))

    def num_held(self, end, kind):
        return sum(page.held[kind][HOST] is not None for page in self.node(end))

    def drop_duplicates(self, wanted):
        freed = {kind: [] for kind in self.kinds}
        for kind in self.kinds:
            if wanted.get(kind, 0) <= len(freed[kind]):
                continue
            share = sum(self.num_held(end, kind) for end in self.duplicates(kind)) // SHARE
            while len(freed[kind]) < max(wanted[kind], share):
                if not (victims := self.duplicates(kind)):
                    break
                for taken in self.taken_with(kind):
                    self.take(victims[0], taken, HOST, freed)
        return freed
