"""The host in the plain model: grafts, windows, and copies between the tiers."""

from tree_model import DEVICE, HOST, Model


class HostModel(Model):
    """Model plus what comes from storage and what is copied."""

    def insert_host(self, anchor, keys, ids):
        """Returns (end or None, present, released)."""
        self.clock += 1
        if anchor.parent and anchor.held["full"][HOST] is None and not self.gaps:
            return None, 0, list(ids)
        path = self.cut_path(anchor, keys)
        held = [page.held["full"][HOST] is not None for page in path]
        present = [*held, False].index(False)
        self.grow(anchor, path, keys)
        released = []
        for page, page_id in zip(path, ids, strict=True):
            self.give(page, "full", HOST, page_id, released)
        end = path[-1] if path else anchor
        end.cut = True
        self.touch(end)
        return end, present, released

    def window(self, anchor, end, ids, kind="swa"):
        """Commit `ids` right-aligned at `end`; returns (attached, released)."""
        self.clock += 1
        chain = self.chain(end)
        attached, released = [], []
        for offset, page_id in enumerate(ids):
            position = len(chain) - len(ids) + offset
            page = chain[position] if position >= anchor.depth else None
            no_base = bool(end.parent) and end.held["full"][HOST] is None
            if page is None or no_base or page.held["full"][HOST] is None:
                released.append(page_id)
                continue
            if page.held[kind][HOST] is not None or not self.places(kind, [page]):
                released.append(page_id)
                continue
            if kind == "swa" and not attached and page.parent.parent:
                page.parent.cut = True  # the node is divided where the window begins
            page.held[kind][HOST] = page_id
            attached.append(page_id)
        if attached:
            self.touch(end)
        return attached, released

    # --- between the tiers ------------------------------------------------------------------------

    def cut_windows(self, end):
        """A load-back takes no more than the windows: nodes are divided where these begin."""
        for kind in self.kinds[1:]:
            before = self.chain(end)[: -self.need(kind, end)]
            if before and not before[-1].cut and kind == "swa":
                swa = before[-1].held["swa"]
                before[-1].cut |= swa[DEVICE] is None and swa[HOST] is not None

    def missing(self, end, kind, source, target, last=None, min_hits=0):
        """The pages that a copy from `source` to `target` is for, or None if one is on neither
        tier.
        """
        if source == HOST:
            pages = self.reach(kind, end)
        else:
            pages = self.chain(end) if last is None else self.whole_nodes(end, last)
            pages = [page for page in pages if page.hits >= min_hits]
        pages = self.places(kind, pages)
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
                gap = self.gaps and kind == "full" and target == HOST
                fits = above.parent is None or above.held["full"][target] is not None or gap
                if page.held[kind][target] is None and fits:
                    page.held[kind][target] = page_id
                else:
                    unused[kind].append(page_id)
        return unused
