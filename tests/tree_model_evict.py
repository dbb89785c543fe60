"""Eviction in the plain model: the same victims as the tree, found by looking at everything each
time.
"""

from tree_model import DEVICE, HOST, Page
from tree_model_host import HostModel


class EvictingModel(HostModel):
    """HostModel plus evict() and clear()."""

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
        return not end.locks["full"][other]

    def is_victim(self, end, kind, tier):
        if kind == "full":
            return self.is_leaf(end, tier)
        on_device = tier == HOST and end.held[kind][DEVICE] is not None
        locked = any(end.locks[taken][tier] for taken in self.taken_with(kind))
        return end.held[kind][tier] is not None and not locked and not on_device

    def taken_with(self, kind):
        """`kind` and those that cannot be without it."""
        return {"full": self.kinds, "swa": [k for k in self.kinds if k != "full"]}.get(kind, [kind])

    def coldness(self, kind, end):
        """Pages that no end has needed yet go first, then by the strategy; of one path the pages
        farthest from its end.
        """
        value = {
            "lru": 0,
            "lfu": end.hits,
            "slru": end.hits >= 2,
            "fifo": end.made,
            "priority": end.priority,
        }[self.strategy]
        return end.used[kind] > 0, value, end.used[kind], end.made, end.depth

    def victims(self, kind, tier):
        """All of them as they are now, the next one first."""
        ends = [end for end in self.ends() if self.is_victim(end, kind, tier)]
        return sorted(ends, key=lambda end: self.coldness(kind, end))

    def next_victim(self, kind, tier):
        return next(iter(self.victims(kind, tier)), None)

    def coldest(self, kind, tier, num_pages):
        """The next victims until they have so many pages."""
        found = []
        for end in self.victims(kind, tier):
            if num_pages <= 0:
                break
            found.append(end)
            num_pages -= sum(page.held[kind][tier] is not None for page in self.node(end))
        return found

    def evict(self, tier, wanted):
        """Page ids given up on `tier`, by kind; `lost` has those that the host lost with them."""
        self.lost = {kind: [] for kind in self.kinds}
        freed = {kind: [] for kind in self.kinds}
        for kind in self.kinds:
            while len(freed[kind]) < wanted.get(kind, 0):
                victim = self.next_victim(kind, tier)
                if victim is None:
                    break
                if not self.is_leaf(victim, tier):
                    for taken in self.taken_with(kind):
                        self.take(victim, taken, tier, freed)
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
            for page in self.all_below(end):
                for kind in self.kinds:
                    self.lost[kind] += [i for i in page.held[kind] if i is not None]
            above.children = {k: page for k, page in above.children.items() if page is not pages[0]}
        return above

    def all_below(self, page):
        found = list(page.children.values())
        for inner in found:  # grows while it is read
            found.extend(inner.children.values())
        return found

    def clear(self, tier):
        """Free all that may go, until nothing more does."""
        self.lost = {kind: [] for kind in self.kinds}
        freed = {kind: [] for kind in self.kinds}
        changed = True
        while changed:
            changed = any([self.clear_node(end, tier, freed) for end in self.ends()])
        return freed

    def clear_node(self, end: Page, tier, freed):
        before = sum(map(len, freed.values()))
        for kind in self.kinds[1:]:
            if not any(end.locks[taken][tier] for taken in self.taken_with(kind)):
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
