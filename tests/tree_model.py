"""A plain model of the tree: one object per page of every known prefix, dicts and lists, no
cleverness.

It has no nodes, only pages with a mark `cut` where the tree must have a node's end. A value is a
page id or None, per kind and tier; a lock is the list of the very pages that it counted up.
Whatever the tree keeps per node is checked against this page by page.
"""

DEVICE, HOST = 0, 1


class Page:
    """One page of one prefix; a root has depth 0 and holds nothing."""

    def __init__(self, parent, depth, clock, kinds):
        self.parent = parent
        self.depth = depth  # pages from the root to the end of this one
        self.cut = False  # a node ends here
        self.node_id = None  # of the node that ends here, once the tree has shown it
        self.children = {}  # by the bytes of the page's tokens
        self.held = {kind: [None, None] for kind in kinds}
        self.locks = {kind: [0, 0] for kind in kinds}
        self.used = {kind: clock for kind in kinds}


class Model:
    """`window_pages` None: FULL alone."""

    def __init__(self, window_pages=None):
        self.window_pages = window_pages
        self.kinds = ("full",) if window_pages is None else ("full", "swa")
        self.roots = {}
        self.clock = 0

    # --- looking around ---------------------------------------------------------------------------

    def root(self, namespace):
        if namespace not in self.roots:
            self.roots[namespace] = Page(None, 0, 0, self.kinds)
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

    def reach(self, kind, end):
        """What an end at `end` needs: its chain, or whole nodes that cover the window."""
        chain = self.chain(end)
        return chain if kind == "full" else self.whole_nodes(end, self.window_pages)

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
            run = chain if kind == "full" else chain[-self.window_pages :]
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
        while host.parent and host.held["full"][HOST] is None:
            host = host.parent
        self.clock += 1
        self.touch(best)
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

    # --- pages in ---------------------------------------------------------------------------------

    def insert(self, keys, ids, namespace):
        """`ids` by kind, one per key, -1 for none. Returns (end, present, released)."""
        root = self.root(namespace)
        self.clock += 1
        path = self.cut_path(root, keys)
        present = sum(page.held["full"][DEVICE] is not None for page in path)
        known = len(path)
        for key in keys[known:]:
            parent = path[-1] if path else root
            parent.children[key] = Page(parent, parent.depth + 1, self.clock, self.kinds)
            path.append(parent.children[key])
        if path:
            path[-1].cut = True
        for kind in self.kinds:  # a node has pages for all of its tokens or for none
            for i in range(1, len(path)):
                lacks = (
                    path[i].held[kind][DEVICE] is None and path[i - 1].held[kind][DEVICE] is None
                )
                if lacks and (ids[kind][i] < 0) != (ids[kind][i - 1] < 0):
                    path[i - 1].cut = True
        released = {kind: [] for kind in self.kinds}
        for i, page in enumerate(path):
            for kind in self.kinds:
                self.give(page, kind, DEVICE, ids[kind][i], released[kind])
        self.touch(path[-1] if path else root)
        return path[-1] if path else root, present, released

    def give(self, page, kind, tier, page_id, released):
        """Keep `page_id` if there is none, release it if there is another."""
        if page_id < 0:
            return
        if page.held[kind][tier] is None:
            page.held[kind][tier] = page_id
        elif page.held[kind][tier] != page_id:
            released.append(page_id)

    def insert_host(self, anchor, keys, ids):
        """Returns (end or None, present, released)."""
        self.clock += 1
        if anchor.parent and anchor.held["full"][HOST] is None:
            return None, 0, list(ids)
        path = self.cut_path(anchor, keys)
        present = sum(page.held["full"][HOST] is not None for page in path)
        for key in keys[len(path) :]:
            parent = path[-1] if path else anchor
            parent.children[key] = Page(parent, parent.depth + 1, self.clock, self.kinds)
            path.append(parent.children[key])
        released = []
        for page, page_id in zip(path, ids, strict=True):
            self.give(page, "full", HOST, page_id, released)
        end = path[-1] if path else anchor
        end.cut = True
        self.touch(end)
        return end, present, released

    def window(self, anchor, end, ids):
        """Commit `ids` right-aligned at `end`; returns (attached, released)."""
        self.clock += 1
        chain = self.chain(end)
        attached, released = [], []
        for offset, page_id in enumerate(ids):
            position = len(chain) - len(ids) + offset
            page = chain[position] if position >= anchor.depth else None
            no_base = bool(end.parent) and end.held["full"][HOST] is None
            if page is None or no_base or page.held["swa"][HOST] is not None:
                released.append(page_id)
                continue
            if not attached and page.parent.parent and page.parent.held["swa"][HOST] is None:
                page.parent.cut = True  # the node is divided where the window begins
            page.held["swa"][HOST] = page_id
            attached.append(page_id)
        if attached:
            self.touch(end)
        return attached, released

    # --- between the tiers ------------------------------------------------------------------------

    def missing(self, end, kind, source, target):
        """The pages that a copy from `source` to `target` is for, or None if one is on neither
        tier.
        """
        pages = self.chain(end) if source == DEVICE else self.reach(kind, end)
        lacking = [page for page in pages if page.held[kind][target] is None]
        if source == HOST and any(page.held[kind][HOST] is None for page in lacking):
            return None
        return [page for page in lacking if page.held[kind][source] is not None]

    def commit_copy(self, plan, target, ids):
        """`plan` by kind: pages; `ids` likewise. The base first. Returns the unused ids by kind."""
        unused = {kind: [] for kind in self.kinds}
        for kind in self.kinds:
            for page, page_id in zip(plan[kind], ids[kind], strict=True):
                above = page.parent if kind == "full" else page
                fits = above.parent is None or above.held["full"][target] is not None
                if page.held[kind][target] is None and fits:
                    page.held[kind][target] = page_id
                else:
                    unused[kind].append(page_id)
        return unused
