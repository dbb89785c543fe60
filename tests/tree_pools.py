"""The ledger of a pool in the tree's fuzz: a page is free, reserved, in a copy or the tree's."""


class Pool:
    def __init__(self, capacity):
        self.capacity = capacity
        self.free = list(range(capacity))
        self.reserved, self.io, self.attached = set(), set(), set()

    @property
    def num_free(self):
        return len(self.free)

    def alloc(self, count):
        """`count` pages, the last freed first; None if there are fewer."""
        if count > len(self.free):
            return None
        ids = [self.free.pop() for _ in range(count)]
        self.reserved.update(ids)
        return ids

    def move(self, ids, source, target):
        assert len(set(ids)) == len(ids) and source.issuperset(ids)
        source.difference_update(ids)
        target.update(ids)

    def give_back(self, ids, source):
        assert len(set(ids)) == len(ids) and source.issuperset(ids)
        source.difference_update(ids)
        self.free.extend(ids)

    def check(self, attached, io):
        """The tree owns just `attached`, copies under way just `io`; all others are free."""
        assert attached == self.attached and io == self.io and not self.reserved
        assert len(self.free) + len(self.io) + len(self.attached) == self.capacity
