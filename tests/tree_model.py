"""A plain model of the tree: one object per page of every known prefix, dicts and lists, no
cleverness.

It has no nodes, only pages with a mark `cut` where the tree must have a node's end. A value is a
page id or None, per kind and tier; a lock is the list of the very pages that it counted up.
Whatever the tree keeps per node is checked against this page by page.
"""

from itertools import pairwise

DEVICE, HOST = 0, 1


class Page:
    """One page of one prefix; a root has depth 0 and holds nothing."""

    def __init__(self, parent, key, depth, clock, kinds):
        self.parent = parent
        self.key = key  # the bytes of its tokens; of a root, its namespace
        self.depth = depth  # pages from the root to the end of this one
        self.cut = False  # a node ends here
        self.node_id = None  # of the node that ends here, once the tree has shown it
        self.children = {}  # by key
        self.held = {kind: [None, None] for kind in kinds}
        self.locks = {kind: [0, 0] for kind in kinds}
        self.used = {kind: 0 for kind in kinds}
        self.made = clock
        self.hits = self.priority = 0


class Model:
    """`window_pages` None: no SWA. `gaps`: host pages may lie below a parent that has none."""

    def __init__(self, window_pages=None, *, states=False, strategy="lru", gaps=False):
        self.window_pages = window_pages
        swa = () if window_pages is None else ("swa",)
        self.kinds = ("full", *swa, *(("mamba",) if states else ()))
        self.strategy = strategy
        self.gaps = gaps
        self.roots = {}
        self.clock = 0

    # --- looking around ---------------------------------------------------------------------------

    def root(self, namespace):
        if namespace not in self.roots:
            self.roots[namespace] = Page(None, namespace, 0, self.clock, self.kinds)
            self.roots[namespace].cut = True
        return self.roots[namespace]

    def pages(self):
        """All pages but the roots, parents first."""
        found, todo = [], list(self.roots.values())
        while todo:
            page = todo.pop()
            todo.extend(page.children.values())
            if page.parent:
                found.append(page)
        return found

    def in_order(self):
        """All pages, each behind its parent, roots and children in the order of their making."""
        found, todo = [], [*reversed(self.roots.values())]
        while todo:
            page = todo.pop()
            found.append(page)
            if page.children:
                todo.extend(reversed(page.children.values()))
        return found

    def ends(self):
        return [page for page in self.pages() if page.cut]

    def chain(self, page):
        """The pages from the first of the prefix to `page`."""
        found = []
        while page.parent:
            found.insert(0, page)
            page = page.parent
        return found

    def node(self, end):
        """The pages of the node that ends at `end`, in order."""
        assert end.cut
        found = [end]
        while found[0].parent.parent and not found[0].parent.cut:
            found.insert(0, found[0].parent)
        return found

    def node_of(self, page):
        """The pages of the node that `page` lies in."""
        while not page.cut:
            (page,) = page.children.values()
        return self.node(page)

    def need(self, kind, end):
        """How many pages back from `end` an end there needs."""
        return {"full": end.depth, "swa": self.window_pages, "mamba": 1}[kind]

    def reach(self, kind, end):
        """What an end at `end` needs, in whole nodes."""
        return self.whole_nodes(end, self.need(kind, end))

    def places(self, kind, pages):
        """Those of the pages at which `kind` may hold something: a state lies at a node's end."""
        return [page for page in pages if page.cut or kind != "mamba"]

    def path_ends(self, end):
        """The ends of the nodes on the path to `end`, root-first."""
        return [page for page in self.chain(end) if page.cut]

    def hit(self, end):
        for page in self.chain(end):
            page.hits += 1

    def whole_nodes(self, end, num_pages):
        """The nodes that cover the last `num_pages` pages before the end of `end`, as pages."""
        chain, found = self.chain(end), []
        while len(found) < num_pages and len(found) < len(chain):
            found = self.node(chain[-1 - len(found)]) + found
        return found

    def walk(self, start, keys):
        """The known pages below `start` along `keys`."""
        found, page = [], start
        for key in keys:
            page = page.children.get(key)
            if page is None:
                break
            found.append(page)
        return found

    def cut_path(self, start, keys):
        """walk(), and a node's end where it stops."""
        found = self.walk(start, keys)
        if found:
            found[-1].cut = True
        return found

    def touch(self, end):
        for kind in self.kinds:
            for page in self.reach(kind, end):
                page.used[kind] = self.clock

    # --- match and locks --------------------------------------------------------------------------

    def satisfied(self, chain, tiers):
        """Whether a match may end at the end of `chain`, pages on any of `tiers` counting."""
        for kind in self.kinds:
            run = chain[-self.need(kind, chain[-1]) :]
            if any(all(page.held[kind][tier] is None for tier in tiers) for page in run):
                return False
        return True

    def match(self, keys, namespace):
        """(any, device, host, full): end pages, the root if there is none."""
        root = self.root(namespace)
        path = self.cut_path(root, keys)
        best = device = root
        for depth in range(1, len(path) + 1):
            if self.satisfied(path[:depth], (DEVICE, HOST)):
                best = path[depth - 1]
            if self.satisfied(path[:depth], (DEVICE,)):
                device = path[depth - 1]
        host = best
        while host.parent and host.held["full"][HOST] is None and not self.gaps:
            host = host.parent
        self.clock += 1
        self.touch(best)
        self.hit(best)
        return best, device, host, path[-1] if path else root

    def lock(self, end, tier, reach=None):
        reach = reach or {kind: self.reach(kind, end) for kind in self.kinds}
        counted = [(page, kind, tier) for kind in self.kinds for page in reach[kind]]
        for page, kind, _ in counted:
            page.locks[kind][tier] += 1
        return counted

    def unlock(self, counted):
        for page, kind, tier in counted:
            page.locks[kind][tier] -= 1

    def release_window(self, counted, kind):
        """Take the locks of `kind` back; returns the rest."""
        self.unlock([lock for lock in counted if lock[1] == kind])
        return [lock for lock in counted if lock[1] != kind]

    def page_counts(self, kind, tier):
        """(not locked, locked)"""
        counts = [0, 0]
        for page in self.pages():
            if page.held[kind][tier] is not None:
                counts[page.locks[kind][tier] > 0] += 1
        return tuple(counts)

    # --- pages in ---------------------------------------------------------------------------------

    def insert(self, keys, ids, namespace, priority=0):
        """`ids` by kind, one per key, -1 for none. Returns (end, present, released)."""
        root = self.root(namespace)
        self.clock += 1
        path = self.cut_path(root, keys)
        present = sum(page.held["full"][DEVICE] is not None for page in path)
        known = len(path)
        self.grow(root, path, keys)
        if path:
            path[-1].cut = True
            for page in self.cuts(path, ids):
                page.cut = True
            window = path[known : -self.window_pages] if "swa" in self.kinds else []
            if window and ids["swa"][window[-1].depth - 1] >= 0:
                window[-1].cut = True  # what is new before the window can go alone
        released = {kind: [] for kind in self.kinds}
        for i, page in enumerate(path):
            for kind in self.kinds:
                self.give(page, kind, DEVICE, ids[kind][i], released[kind])
        self.touch(path[-1] if path else root)
        for page in path:
            page.hits = max(page.hits, 1)
            page.priority = max(page.priority, priority)
        return path[-1] if path else root, present, released

    def grow(self, start, path, keys):
        """Make the pages of `keys` that `path`, below `start`, lacks."""
        for key in keys[len(path) :]:
            parent = path[-1] if path else start
            parent.children[key] = Page(parent, key, parent.depth + 1, self.clock, self.kinds)
            path.append(parent.children[key])

    def cuts(self, path, ids):
        """Where nodes must end so that each holds of every kind what it is given, or nothing."""
        found = []
        for end in self.path_ends(path[-1]):
            node = self.node(end)
            for kind in self.kinds:
                if end.held[kind][DEVICE] is not None:
                    continue  # it keeps what it has
                for page, below in pairwise(node):
                    here, there = ids[kind][page.depth - 1], ids[kind][below.depth - 1]
                    if here >= 0 if kind == "mamba" else (here < 0) != (there < 0):
                        found.append(page)
        return found

    def give(self, page, kind, tier, page_id, released):
        """Keep `page_id` if there is none, release it if there is another."""
        if page_id < 0:
            return
        if page.held[kind][tier] is None and self.places(kind, [page]):
            page.held[kind][tier] = page_id
        elif page.held[kind][tier] != page_id:
            released.append(page_id)
