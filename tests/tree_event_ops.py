"""Events as an op of the tree's fuzz: who hears of them must know what the model holds."""

from tree_model import DEVICE, HOST
from tree_ops import op

from hicache_ext.keys import KEY_BYTES, namespace_seed
from hicache_ext.tree.events import EventKind


class Listener:
    """The keys of the base pages on each tier, from events alone."""

    def __init__(self):
        self.known = [set(), set()]

    def hear(self, events, has_gaps):
        for event in events:
            keys = [event.keys[i : i + KEY_BYTES] for i in range(0, len(event.keys), KEY_BYTES)]
            known = self.known[event.tier]
            if event.kind is EventKind.CLEARED:
                self.known = [set(), set()]
            elif event.kind is EventKind.STORED:
                above = event.parent
                assert not above or above in known or has_gaps, "stored below a page that is not"
                assert known.isdisjoint(keys), "stored twice"
                known.update(keys)
            else:
                assert known.issuperset(keys), "removed, but never stored"
                known.difference_update(keys)


def held_keys(fuzz):
    """What the model holds of the base, by tier."""
    held = [set(), set()]
    for namespace, root in fuzz.model.roots.items():
        todo = [(root, namespace_seed(namespace))]
        while todo:
            page, seed = todo.pop()
            for tokens, child in page.children.items():
                (key,) = fuzz.chain_keys([tokens], seed)
                todo.append((child, key))
                for tier in (DEVICE, HOST):
                    if child.held["full"][tier] is not None:
                        held[tier].add(key)
    return held


@op(1)
def events(fuzz):
    """The tree has no page ids in its events: they are the same on every rank."""
    told = fuzz.each("take_events")
    if not fuzz.has_events:
        assert told == []
        return
    fuzz.listener.hear(told, fuzz.model.gaps)
    held = held_keys(fuzz)
    assert fuzz.listener.known == held
    late = Listener()
    late.hear(fuzz.each("event_snapshot"), fuzz.model.gaps)
    assert late.known == held
