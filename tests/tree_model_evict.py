"""Eviction in the plain model: the same victims as the tree, found by looking at everything each
time.
"""

from tree_model import DEVICE, HOST, Model, Page


class EvictingModel(Model):
    """Model plus evict() and clear()."""

    def below(self, end):
        """The ends of the nodes right below `end`."""
        found, todo = [], list(end.children.values())
        while todo:
            page = todo.pop()
            if page.cut:
                found.append(page)
            else:
                todo.extend(page.children.values())
        return found

    def is_leaf(self, end, tier):
        """Whether the node may lose its base pages on `tier`: nothing below, nobody uses it."""
        if end.held["full"][tier] is None or end.locks["full"][tier]:
            return False
        if any(child.held["full"][tier] is not None for child in end.children.values()):
            return False
        other = HOST if tier == DEVICE else DEVICE
        if end.held["full"][other] is not None:
            return tier == DEVICE
        return not end.locks["full"][other] and not end.children

    def is_victim(self, end, kind, tier):
        if kind == "full":
            return self.is_leaf(end, tier)
        on_device = tier == HOST and end.held[kind][DEVICE] is not None
        return end.held[kind][tier] is not None and not end.locks[kind][tier] and not on_device

    def next_victim(self, kind, tier):
        """Least recently used first; of one path the deepest base, but the outermost window."""
        sign = -1 if kind == "full" else 1
        ends = [end for end in self.ends() if self.is_victim(end, kind, tier)]
        return min(ends, key=lambda end: (end.used[kind], sign * end.depth), default=None)

    def evict(self, tier, wanted):
        freed = {kind: [] for kind in self.kinds}
        for kind in self.kinds:
            while len(freed[kind]) < wanted.get(kind, 0):
                victim = self.next_victim(kind, tier)
                if victim is None:
                    break
                if not self.is_leaf(victim, tier):
                    self.take(victim, kind, tier, freed)
                    continue
                above = self.take_leaf(victim, tier, freed)
                while above.parent and self.is_dead_end(above) and self.is_leaf(above, tier):
                    above = self.take_leaf(above, tier, freed)
        return freed

    def is_dead_end(self, end):
        return not end.children and any(end.held[kind] == [None, None] for kind in self.kinds)

    def take(self, end, kind, tier, freed):
        """Free what the node holds of `kind`; nothing outlives the base on a tier."""
        for page in self.node(end):
            if page.held[kind][tier] is not None:
                freed[kind].append(page.held[kind][tier])
            page.held[kind][tier] = None

    def take_leaf(self, end, tier, freed):
        """Free a leaf's pages on `tier` and the node if that was all; returns the page above it."""
        pages = self.node(end)
        for kind in self.kinds:
            self.take(end, kind, tier, freed)
        above = pages[0].parent
        if end.held["full"] == [None, None]:
            above.children = {k: page for k, page in above.children.items() if page is not pages[0]}
        return above

    def clear(self, tier):
        """Free all that may go, until nothing more does."""
        freed = {kind: [] for kind in self.kinds}
        changed = True
        while changed:
            changed = any([self.clear_node(end, tier, freed) for end in self.ends()])
        return freed

    def clear_node(self, end: Page, tier, freed):
        before = sum(map(len, freed.values()))
        for kind in self.kinds[1:]:
            if not end.locks[kind][tier]:
                self.take(end, kind, tier, freed)
        locked = end.held["full"][tier] is None or end.locks["full"][tier]
        has_child = any(c.held["full"][tier] is not None for c in end.children.values())
        other = HOST if tier == DEVICE else DEVICE
        if not locked and not has_child:
            if end.held["full"][other] is not None:
                self.take(end, "full", tier, freed)
            elif self.is_leaf(end, tier):
                self.take_leaf(end, tier, freed)
        return sum(map(len, freed.values())) > before
